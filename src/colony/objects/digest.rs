//! Checksums of what is sent to the S3 endpoint: which ones the sender wants verified, and what they come to.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use md5::Digest;
use md5::Md5;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Result;
use s3s::TrailingHeaders;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum;
use s3s::crypto::Crc32;
use s3s::crypto::Crc32c;
use s3s::crypto::Crc64Nvme;
use s3s::crypto::Sha1;
use s3s::crypto::Sha256;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;

const PREFIX: &str = "x-amz-checksum-";

/// S3's additional checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    const ALL: [Algorithm; 5] = [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64nvme, Algorithm::Sha1, Algorithm::Sha256];

    fn word(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "crc32",
            Algorithm::Crc32c => "crc32c",
            Algorithm::Crc64nvme => "crc64nvme",
            Algorithm::Sha1 => "sha1",
            Algorithm::Sha256 => "sha256",
        }
    }

    /// By the name that S3 uses in headers, in any case.
    pub(super) fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|a| a.word().eq_ignore_ascii_case(name))
    }

    fn header(self) -> String {
        format!("{PREFIX}{}", self.word())
    }

    /// The checksum of `data`.
    fn of(self, data: &[u8]) -> Vec<u8> {
        fn run<C: Checksum>(mut hasher: C, data: &[u8]) -> Vec<u8> {
            hasher.update(data);
            hasher.finalize().as_ref().to_vec()
        }
        match self {
            Algorithm::Crc32 => run(Crc32::new(), data),
            Algorithm::Crc32c => run(Crc32c::new(), data),
            Algorithm::Crc64nvme => run(Crc64Nvme::new(), data),
            Algorithm::Sha1 => run(Sha1::new(), data),
            Algorithm::Sha256 => run(Sha256::new(), data),
        }
    }
}

/// Checksums in base64, as S3 writes them.
pub(super) type Sums = BTreeMap<Algorithm, String>;

/// What the sender says about the bytes that it sends.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    md5: Option<Vec<u8>>,
    sums: Sums,
    /// Computed although nothing is claimed (yet: the claim may come behind the body).
    also: Vec<Algorithm>,
}

impl Claims {
    /// From a request's headers.
    ///
    /// # Errors
    /// `InvalidDigest` where a header is no checksum.
    pub(super) fn read(headers: &HeaderMap) -> S3Result<Claims> {
        let mut claims = Claims::default();
        if let Some(value) = headers.get("content-md5") {
            let md5 = STANDARD.decode(value.as_bytes()).ok().filter(|md5| md5.len() == 16);
            claims.md5 = Some(md5.ok_or_else(|| S3Error::with_message(S3ErrorCode::InvalidDigest, "Content-MD5 is not an MD5"))?);
        }
        claims.take_sums(headers)?;
        let trailer = headers.get("x-amz-trailer").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let announced = trailer.split(',').filter_map(|name| Algorithm::named(name.trim().strip_prefix(PREFIX)?));
        claims.also.extend(announced);
        let named = headers.get("x-amz-sdk-checksum-algorithm").and_then(|v| v.to_str().ok());
        claims.also.extend(named.and_then(Algorithm::named));
        Ok(claims)
    }

    /// Asks for one more checksum to be computed.
    pub(super) fn and(mut self, algorithm: Option<Algorithm>) -> Claims {
        self.also.extend(algorithm);
        self
    }

    fn take_sums(&mut self, headers: &HeaderMap) -> S3Result<()> {
        for algorithm in Algorithm::ALL {
            if let Some(value) = headers.get(algorithm.header()) {
                let text = value.to_str().ok().filter(|t| STANDARD.decode(t).is_ok());
                let bad = || S3Error::with_message(S3ErrorCode::InvalidRequest, format!("{} is not base64", algorithm.header()));
                self.sums.insert(algorithm, text.ok_or_else(bad)?.to_owned());
            }
        }
        Ok(())
    }

    /// Compares with what arrived. `trailers` came behind the body.
    ///
    /// # Errors
    /// `BadDigest`.
    pub(super) fn verify(mut self, found: &Digests, trailers: Option<TrailingHeaders>) -> S3Result<()> {
        if let Some(trailers) = trailers.and_then(|t| t.take()) {
            self.take_sums(&trailers)?;
        }
        if self.md5.is_some_and(|md5| md5 != found.md5) {
            return Err(S3Error::with_message(
                S3ErrorCode::BadDigest,
                "the Content-MD5 you specified did not match what we received",
            ));
        }
        for (algorithm, claimed) in &self.sums {
            if found.sums.get(algorithm) != Some(claimed) {
                let message = format!("the {} you specified did not match what we received", algorithm.word().to_uppercase());
                return Err(S3Error::with_message(S3ErrorCode::BadDigest, message));
            }
        }
        Ok(())
    }
}

/// Computes what was claimed, and MD5 for the ETag.
pub(super) struct Digester {
    md5: Md5,
    sums: ChecksumHasher,
}

/// The outcome of a [`Digester`].
pub(super) struct Digests {
    pub(super) md5: Vec<u8>,
    pub(super) sums: Sums,
}

impl Digester {
    pub(super) fn new(claims: &Claims) -> Digester {
        let wanted = |algorithm| claims.sums.contains_key(&algorithm) || claims.also.contains(&algorithm);
        let sums = ChecksumHasher {
            crc32: wanted(Algorithm::Crc32).then(Crc32::new),
            crc32c: wanted(Algorithm::Crc32c).then(Crc32c::new),
            crc64nvme: wanted(Algorithm::Crc64nvme).then(Crc64Nvme::new),
            sha1: wanted(Algorithm::Sha1).then(Sha1::new),
            sha256: wanted(Algorithm::Sha256).then(Sha256::new),
        };
        Digester { md5: Md5::new(), sums }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
    }

    pub(super) fn finish(self) -> Digests {
        let sums = self.sums.finalize();
        let sums = [
            (Algorithm::Crc32, sums.checksum_crc32),
            (Algorithm::Crc32c, sums.checksum_crc32c),
            (Algorithm::Crc64nvme, sums.checksum_crc64nvme),
            (Algorithm::Sha1, sums.checksum_sha1),
            (Algorithm::Sha256, sums.checksum_sha256),
        ];
        let sums = sums.into_iter().filter_map(|(a, sum)| Some((a, sum?))).collect();
        Digests { md5: self.md5.finalize().to_vec(), sums }
    }
}

/// The ETag of an object that was joined from parts with these ETags.
pub(super) fn joined_etag<'a>(etags: impl IntoIterator<Item = &'a str>) -> String {
    let (mut all, mut count) = (Md5::new(), 0);
    for etag in etags {
        // The ETags of parts are MD5s that we made ourselves.
        all.update(hex::decode(etag).unwrap_or_default());
        count += 1;
    }
    format!("{}-{count}", hex::encode(all.finalize()))
}

/// The checksum over the parts' checksums, without the number of parts behind it; nothing where a part has none.
pub(super) fn composite<'a>(algorithm: Algorithm, parts: impl IntoIterator<Item = &'a Sums>) -> Option<String> {
    let mut all = Vec::new();
    for sums in parts {
        all.extend(STANDARD.decode(sums.get(&algorithm)?).ok()?);
    }
    Some(STANDARD.encode(algorithm.of(&all)))
}

/// The checksums that a request's headers name (of a completed upload).
pub(super) fn claimed_sums(headers: &HeaderMap) -> Sums {
    let named = |a: Algorithm| Some((a, headers.get(a.header())?.to_str().ok()?.to_owned()));
    Algorithm::ALL.into_iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn digests(claims: &Claims, data: &[u8]) -> Digests {
        let mut digester = Digester::new(claims);
        digester.update(data);
        digester.finish()
    }

    #[test]
    fn what_python_sends_is_verified() {
        // tests/wire/s3-requests.json, "pycolonies: upload".
        let claims = Claims::read(&headers(&[("x-amz-checksum-crc32", "M8Vjqg==")])).unwrap();
        let good = digests(&claims, b"from python");
        assert_eq!(hex::encode(&good.md5), "fca899faf9ffa43c174a8e1237e222e2");
        claims.clone().verify(&good, None).unwrap();
        let bad = digests(&claims, b"from nobody");
        assert_eq!(*claims.verify(&bad, None).unwrap_err().code(), S3ErrorCode::BadDigest);
    }

    #[test]
    fn the_composite_of_the_go_client_comes_out() {
        // tests/wire/s3-requests.json, "complete".
        let part = |sum: &str| Sums::from([(Algorithm::Crc32c, sum.to_owned())]);
        let parts = [part("hyWINw=="), part("Hp9eZA==")];
        assert_eq!(composite(Algorithm::Crc32c, &parts).unwrap(), "DC4P+Q==");
        assert_eq!(composite(Algorithm::Crc32, &parts), None);
        let etags = ["6a31f7e7ba3abe2b8c36dcca2c9863b2", "93c2f35c8192b7986a798e1453ae86f1"];
        assert_eq!(joined_etag(etags), "927ae5843843598103b6f9f6adb9c442-2");
    }

    #[test]
    fn a_wrong_md5_is_noticed_and_nonsense_refused() {
        let claims = Claims::read(&headers(&[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")])).unwrap();
        claims.clone().verify(&digests(&claims, b""), None).unwrap();
        assert!(claims.clone().verify(&digests(&claims, b"x"), None).is_err());
        let error = Claims::read(&headers(&[("content-md5", "nonsense")])).unwrap_err();
        assert_eq!(*error.code(), S3ErrorCode::InvalidDigest);
    }
}
