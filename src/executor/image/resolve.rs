//! Which digest a tag means now, asked of its registry: one small request, and one more where a token is wanted.

use super::credentials::Login;
use super::reference;
use super::reference::Remote;
use crate::net;
use reqwest::Method;
use reqwest::Response;
use reqwest::StatusCode;
use reqwest::header;
use sha2::Digest as _;
use std::time::Duration;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest manifest that is read where a registry does not tell the digest.
const LARGEST: usize = 4 << 20;
/// How often a registry may send us elsewhere.
const DETOURS: usize = 5;
/// What can stand behind a tag.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";

/// Why the digest is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// There is no such image.
    #[error("the registry has no such image or tag, or shows it to others only")]
    Missing,
    /// The credentials do not do.
    #[error("the registry wants other credentials ({0})")]
    Denied(String),
    /// No answer, or one that may be another one later.
    #[error("{0}")]
    Unreachable(String),
}

/// How a registry wants to know who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The digest of an image.
///
/// # Errors
/// [`Trouble`].
pub async fn digest(http: &reqwest::Client, remote: &Remote, plain: bool, login: Option<&Login>) -> Result<String, Trouble> {
    let asked = Asked { http, remote, plain, login };
    let head = asked.manifest(Method::HEAD).await?;
    if let Some(digest) = told(&head) {
        return Ok(digest);
    }
    // Some registries tell nothing without the manifest itself.
    let whole = asked.manifest(Method::GET).await?;
    if let Some(digest) = told(&whole) {
        return Ok(digest);
    }
    let bytes = whole.bytes().await.map_err(|e| Trouble::Unreachable(net::describe(&e.without_url())))?;
    if bytes.len() > LARGEST {
        return Err(Trouble::Unreachable("the registry sends a manifest that is too large to be one".into()));
    }
    Ok(format!("sha256:{}", hex::encode(sha2::Sha256::digest(&bytes))))
}

fn told(response: &Response) -> Option<String> {
    let text = response.headers().get("docker-content-digest")?.to_str().ok()?;
    reference::check_digest(text).ok().map(|()| text.to_owned())
}

struct Asked<'a> {
    http: &'a reqwest::Client,
    remote: &'a Remote,
    plain: bool,
    login: Option<&'a Login>,
}

/// How to show who asks.
enum Shown {
    Nothing,
    Login,
    Token(String),
}

impl Asked<'_> {
    fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    async fn manifest(&self, method: Method) -> Result<Response, Trouble> {
        let reference = self.remote.digest.as_deref().or(self.remote.tag.as_deref()).unwrap_or("latest");
        let url = format!("{}://{}/v2/{}/manifests/{reference}", self.scheme(), self.remote.host(), self.remote.repository);
        let first = self.send(&method, &url, &Shown::Nothing).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return judged(first);
        }
        let shown = match challenge(&first) {
            Some(Challenge::Basic) if self.login.is_some() => Shown::Login,
            Some(Challenge::Bearer { realm, service, scope }) => Shown::Token(self.token(&realm, service, scope).await?),
            _ => return judged(first),
        };
        judged(self.send(&method, &url, &shown).await?)
    }

    async fn send(&self, method: &Method, url: &str, shown: &Shown) -> Result<Response, Trouble> {
        let mut url = url::Url::parse(url).map_err(|e| Trouble::Unreachable(format!("the registry's address: {e}")))?;
        let origin = url.origin();
        for _ in 0..DETOURS {
            let mut request = self.http.request(method.clone(), url.clone()).timeout(PATIENCE).header(header::ACCEPT, ACCEPT);
            // Whoever a registry sends us to is not told who we are.
            if url.origin() == origin {
                request = match (shown, self.login) {
                    (Shown::Login, Some(login)) => request.basic_auth(&login.user, Some(login.password.expose())),
                    (Shown::Token(token), _) => request.bearer_auth(token),
                    _ => request,
                };
            }
            let response = request.send().await.map_err(|e| Trouble::Unreachable(net::describe(&e.without_url())))?;
            let onward = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).and_then(|to| url.join(to).ok());
            match onward {
                Some(to) if response.status().is_redirection() && (self.plain || to.scheme() == "https") => url = to,
                _ => return Ok(response),
            }
        }
        Err(Trouble::Unreachable("the registry sends us in circles".into()))
    }

    async fn token(&self, realm: &str, service: Option<String>, scope: Option<String>) -> Result<String, Trouble> {
        let mut url =
            url::Url::parse(realm).map_err(|_| Trouble::Unreachable("the registry names no place that gives tokens".into()))?;
        if url.scheme() != "https" && !self.plain {
            return Err(Trouble::Unreachable("the registry would have the password sent in the clear, to get a token".into()));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.remote.repository));
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", &service);
            }
            query.append_pair("scope", &scope);
        }
        let mut request = self.http.get(url).timeout(PATIENCE);
        if let Some(login) = self.login {
            request = request.basic_auth(&login.user, Some(login.password.expose()));
        }
        let response = request.send().await.map_err(|e| Trouble::Unreachable(net::describe(&e.without_url())))?;
        let response = judged(response)?;
        let answer: serde_json::Value =
            response.json().await.map_err(|e| Trouble::Unreachable(net::describe(&e.without_url())))?;
        let token = ["token", "access_token"].iter().find_map(|name| answer.get(name)?.as_str());
        token.map(str::to_owned).ok_or_else(|| Trouble::Unreachable("the registry gives an answer, and no token".into()))
    }
}

fn judged(response: Response) -> Result<Response, Trouble> {
    let status = response.status();
    match status {
        _ if status.is_success() => Ok(response),
        StatusCode::NOT_FOUND => Err(Trouble::Missing),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Trouble::Denied(status.to_string())),
        StatusCode::TOO_MANY_REQUESTS => {
            Err(Trouble::Unreachable("the registry was asked too often (429); those who log in may ask more".into()))
        }
        _ => Err(Trouble::Unreachable(format!("the registry answers {status}"))),
    }
}

fn challenge(response: &Response) -> Option<Challenge> {
    let all = response.headers().get_all(header::WWW_AUTHENTICATE);
    let read: Vec<Challenge> = all.iter().filter_map(|v| read_challenge(v.to_str().ok()?)).collect();
    let bearer = read.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    bearer.or(read.first()).cloned()
}

/// Reads one `WWW-Authenticate`. Pure.
fn read_challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match name.trim_matches([',', ' ']).to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            "scope" => scope = Some(value.to_owned()),
            _ => {}
        }
        rest = after;
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read() {
        let want = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("registry.example".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        let text = "Bearer realm=\"https://auth.example/token\",service=\"registry.example\", scope=\"repository:a/b:pull,push\"";
        assert_eq!(read_challenge(text), Some(want));
        let bare = Challenge::Bearer { realm: "https://x".into(), service: None, scope: None };
        assert_eq!(read_challenge("bearer realm=https://x"), Some(bare));
        assert_eq!(read_challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(read_challenge("Negotiate"), None);
        assert_eq!(read_challenge("Bearer service=\"x\""), None);
    }

    proptest! {
        #[test]
        fn no_challenge_breaks_it(text in "(Bearer )?[a-z=\", ]{0,40}") {
            let _ = read_challenge(&text);
        }
    }
}
