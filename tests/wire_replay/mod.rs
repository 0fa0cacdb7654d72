//! Replays recorded conversations with a real server against ours: the envelopes byte for byte where possible, signed anew
//! where an id in them is another one here, and compares status, words and shape of every answer.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use pollinator::colonies::Identity;
use pollinator::colonies::envelope::Request;
use pollinator::colonies::identity;
use pollinator::colony::server::Server;
use pollinator::colony::server::Settings;
use pollinator::config::Secret;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A recording.
pub fn recording(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire").join(format!("{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What is known of the recorded world in ours: ids and log times.
#[derive(Clone, Default)]
pub struct Known {
    ids: BTreeMap<String, String>,
    stamps: BTreeMap<i64, i64>,
    /// The recorded server had stored files before, so that its numbers are higher.
    pub numbers_differ: bool,
}

pub struct World {
    pub server: Server,
    pub address: String,
    pub known: Known,
    pub seen: BTreeSet<(String, usize)>,
    pub troubles: Vec<String>,
    identities: Value,
    extra: BTreeMap<String, Identity>,
    cache: BTreeMap<String, Value>,
    http: reqwest::Client,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub async fn new(change: impl FnOnce(&mut Settings)) -> World {
        let identities = recording("identities");
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(identities["server_owner"]["id"].as_str().unwrap());
        settings.faulty_labels = true;
        change(&mut settings);
        let stop = CancellationToken::new();
        let server = Server::open(folder.path(), settings, stop.clone()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        World {
            server,
            address,
            known: Known::default(),
            seen: BTreeSet::new(),
            troubles: Vec::new(),
            identities,
            extra: BTreeMap::new(),
            cache: BTreeMap::new(),
            http: pollinator::net::http_client(false).unwrap(),
            stop,
            _folder: folder,
        }
    }

    /// Who signs, by the words of the recordings.
    pub fn signer(&self, words: &str) -> Option<Identity> {
        let key = match words {
            "user" | "executor" | "stranger" => words,
            "colony owner" => "colony_owner",
            "second executor" => "executor2",
            "user of colony wire2" => "user2",
            "owner of colony wire2" => "colony2_owner",
            "executor of colony wire2" => "executor3",
            _ => return self.extra.get(words).cloned(),
        };
        let text = self.identities[key]["prvkey"].as_str()?;
        Some(Identity::from_key(&Secret::new(text)).unwrap())
    }

    /// Lets a key of ours stand for a recorded id whose key is not known.
    pub fn stand_in(&mut self, recorded_id: &str, identity: Identity) {
        self.known.ids.insert(recorded_id.into(), identity.id().into());
        self.extra.insert(recorded_id.into(), identity);
    }

    /// Case `nr` of a recording.
    pub fn case(&mut self, file: &str, nr: usize) -> Value {
        let recorded = self.cache.entry(file.into()).or_insert_with(|| recording(file));
        let list = recorded.get("exchanges").unwrap_or(recorded);
        list[nr].clone()
    }

    /// Sends a case and compares its answer. `differ` true: on purpose it differs; the answer is given back unseen.
    pub async fn replay(&mut self, file: &str, nr: usize) {
        let case = self.case(file, nr);
        let (status, body) = self.send(&case).await;
        self.seen.insert((file.into(), nr));
        let name = format!("{file}#{nr} [{}]", case["case"].as_str().unwrap_or_default());
        if let Err(why) = self.compare(&case, status, &body) {
            self.troubles.push(format!("{name}: {why}"));
        }
    }

    /// Sends a case whose answer differs on purpose; gives status and decoded payload.
    pub async fn differs(&mut self, file: &str, nr: usize) -> (u16, Value) {
        let case = self.case(file, nr);
        let (status, body) = self.send(&case).await;
        self.seen.insert((file.into(), nr));
        (status, decoded(&body).unwrap_or(Value::Null))
    }

    async fn send(&mut self, case: &Value) -> (u16, String) {
        let request = &case["request"];
        let name = case["case"].as_str().unwrap_or_default();
        let words = name.strip_prefix("http: ").map(|w| w.split_once(' ').unwrap());
        let (method, path) = words.unwrap_or(("POST", "/api"));
        let body = match (request.get("raw").and_then(Value::as_str), request.get("envelope")) {
            (Some(raw), _) => raw.to_owned(),
            (None, Some(envelope)) => self.renew(case, envelope),
            (None, None) => String::new(),
        };
        let url = format!("http://{}{path}", self.address);
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let response = self.http.request(method, url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The envelope as recorded, or with our ids and a new signature where it names ids that are others here.
    pub fn renew(&self, case: &Value, envelope: &Value) -> String {
        let field = |name: &str| {
            let object = envelope.as_object().unwrap();
            let found = object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            found.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (payload, signature) = (field("payload"), field("signature"));
        use base64::Engine;
        use base64::alphabet::STANDARD;
        use base64::engine::DecodePaddingMode;
        use base64::engine::GeneralPurpose;
        use base64::engine::GeneralPurposeConfig;
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = GeneralPurpose::new(&STANDARD, lenient).decode(&payload).ok().and_then(|b| String::from_utf8(b).ok());
        let Some(text) = decoded else { return envelope.to_string() };
        let ours = self.translate(&text);
        let recorded_signer = identity::recover(&payload, &signature).ok();
        let stand_in = recorded_signer.as_ref().and_then(|id| self.extra.get(id)).cloned();
        if ours == text && stand_in.is_none() {
            return envelope.to_string();
        }
        let padded = payload.ends_with('=') || payload.len() % 4 == 0;
        let config = GeneralPurposeConfig::new().with_encode_padding(padded);
        let renewed = GeneralPurpose::new(&STANDARD, config).encode(&ours);
        let words = case["signed_by"].as_str().unwrap_or_default();
        let named = self.signer(words).or_else(|| {
            let id = recorded_signer.as_deref()?;
            ["user", "executor", "colony owner", "stranger", "second executor"]
                .into_iter()
                .filter_map(|w| self.signer(w))
                .find(|i| i.id() == id)
        });
        let new_signature = match stand_in.or(named) {
            Some(signer) => signer.sign(&renewed),
            // "nobody": what is wrong with the signature stays wrong with it; see `by_nobody`.
            None => self.by_nobody(case, &renewed, &signature),
        };
        let new_signature =
            if signature.chars().any(|c| c.is_ascii_uppercase()) { new_signature.to_uppercase() } else { new_signature };
        let mut changed = envelope.clone();
        for (key, value) in changed.as_object_mut().unwrap() {
            match key.to_ascii_lowercase().as_str() {
                "payload" => *value = json!(renewed),
                "signature" => *value = json!(new_signature),
                _ => {}
            }
        }
        changed.to_string()
    }

    /// Signatures that were broken on purpose: broken the same way over the new payload.
    fn by_nobody(&self, case: &Value, payload: &str, recorded: &str) -> String {
        let good = self.signer("user").unwrap().sign(payload);
        let (numbers, v) = good.split_at(128);
        match case["case"].as_str().unwrap_or_default() {
            name if name.contains("wrong recovery bit") => format!("{numbers}{}", if v == "00" { "01" } else { "00" }),
            name if name.contains("in capitals") => good.to_uppercase(),
            name if name.contains("27 or 28") => format!("{numbers}{}", if v == "00" { "1b" } else { "1c" }),
            name if name.contains("255") => format!("{numbers}ff"),
            name if name.contains("64 bytes") => numbers.to_owned(),
            name if name.contains("66 bytes") => format!("{good}00"),
            _ => recorded.to_owned(),
        }
    }

    /// Recorded ids and log times to ours.
    pub fn translate(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (theirs, ours) in self.known.ids.iter().filter(|(theirs, ours)| theirs != ours) {
            text = text.replace(theirs.as_str(), ours);
        }
        for (theirs, ours) in &self.known.stamps {
            text = text.replace(&theirs.to_string(), &ours.to_string());
        }
        text
    }

    fn compare(&mut self, case: &Value, status: u16, body: &str) -> Result<(), String> {
        let expected = case["status"].as_u64().unwrap() as u16;
        if status != expected {
            return Err(format!("status {status} instead of {expected}: {}", decoded(body).unwrap_or(json!(body))));
        }
        let Some(payload) = case["response"].get("payload") else {
            let raw = case["response"]["raw"].as_str().unwrap_or_default();
            return if raw == body { Ok(()) } else { Err(format!("body {body:?} instead of {raw:?}")) };
        };
        let reply: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {body:?}"))?;
        for field in ["payloadtype", "error"] {
            if reply[field] != case["response"][field] {
                return Err(format!("{field} {} instead of {}", reply[field], case["response"][field]));
            }
        }
        let mut known = self.known.clone();
        known.same("", payload, &decoded(body).unwrap_or(Value::Null))?;
        self.known = known;
        Ok(())
    }

    /// Compares a frame of a subscription.
    pub fn same_frame(&mut self, recorded: &Value, ours: &Value) -> Result<(), String> {
        self.known.clone().same("", recorded, ours)
    }

    /// A call of the test itself.
    pub async fn call(&self, words: &str, msgtype: &str, payload: Value) -> (u16, Value) {
        let request = match self.signer(words) {
            Some(signer) => Request::signed(&signer, msgtype, payload),
            None => Request::unsigned(msgtype, payload),
        };
        let body = serde_json::to_string(&request).unwrap();
        let response = self.http.post(format!("http://{}/api", self.address)).body(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, decoded(&response.text().await.unwrap()).unwrap_or(Value::Null))
    }

    /// A call that must succeed.
    pub async fn must(&self, words: &str, msgtype: &str, payload: Value) -> Value {
        let (status, answer) = self.call(words, msgtype, payload).await;
        assert_eq!(status, 200, "{msgtype}: {answer}\n{}", self.troubles.join("\n"));
        answer
    }

    /// The recorded id that begins so, in full; from any recording.
    pub fn recorded_id(&self, beginning: &str) -> String {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            if let Some(at) = text.find(&format!("\"{beginning}")) {
                return text[at + 1..at + 65].to_owned();
            }
        }
        panic!("no recorded id begins with {beginning}");
    }

    /// Our id for a recorded one, by its beginning.
    pub fn ours(&self, beginning: &str) -> String {
        let id = self.recorded_id(beginning);
        self.known.ids.get(&id).cloned().unwrap_or(id)
    }

    /// Submits what the recorded process was made of, where its submission itself was not recorded.
    pub async fn submit(&mut self, beginning: &str) {
        let recorded = self.recorded_id(beginning);
        let spec = recorded_spec(&recorded).unwrap_or_else(|| {
            let case = self.case("submitfuncspec", 0);
            case["request"]["payload"]["spec"].clone()
        });
        let process = self.must("user", "submitfuncspecmsg", json!({ "spec": spec })).await;
        self.known.ids.insert(recorded, process["processid"].as_str().unwrap().into());
    }

    /// The executor takes a process, which must be that one.
    pub async fn assign(&mut self, words: &str, beginning: &str) {
        let colony = json!({ "colonyname": "wire", "timeout": 2, "availablecpu": "", "availablemem": "" });
        let process = self.must(words, "assignprocessmsg", colony).await;
        assert_eq!(process["processid"].as_str().unwrap(), self.ours(beginning), "another process was assigned");
    }

    pub async fn close(&self, beginning: &str) {
        self.must("executor", "closesuccessfulmsg", json!({ "processid": self.ours(beginning), "out": [] })).await;
    }

    pub async fn cancel(&self, beginning: &str) {
        self.must("user", "cancelprocessmsg", json!({ "processid": self.ours(beginning) })).await;
    }

    /// Until the process is in that state.
    pub async fn until(&self, beginning: &str, state: i64) {
        let id = self.ours(beginning);
        let limit = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let process = self.must("user", "getprocessmsg", json!({ "processid": id })).await;
            if process["state"] == state {
                return;
            }
            assert!(tokio::time::Instant::now() < limit, "{beginning} did not come to state {state}: {process}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The specification of a recorded process.
fn recorded_spec(id: &str) -> Option<Value> {
    fn find(value: &Value, id: &str) -> Option<Value> {
        match value {
            Value::Object(map) if map.get("processid").and_then(Value::as_str) == Some(id) && map.contains_key("spec") => {
                Some(map["spec"].clone())
            }
            Value::Object(map) => map.values().find_map(|v| find(v, id)),
            Value::Array(list) => list.iter().find_map(|v| find(v, id)),
            _ => None,
        }
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    std::fs::read_dir(folder).unwrap().find_map(|file| {
        let path = file.unwrap().path();
        let value = path
            .extension()
            .is_some_and(|e| e == "json")
            .then(|| serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())?;
        find(&value, id)
    })
}

/// The payload of a reply's body.
pub fn decoded(body: &str) -> Option<Value> {
    let reply = pollinator::colonies::envelope::Reply::read(body.as_bytes()).ok()?;
    serde_json::from_slice(&reply.bytes().ok()?).ok()
}

impl Known {
    /// Whether our answer is the recorded one but for ids, times and the order of lists that have none.
    pub fn same(&mut self, at: &str, theirs: &Value, ours: &Value) -> Result<(), String> {
        match (theirs, ours) {
            (Value::Object(a), Value::Object(b)) => {
                let (x, y): (BTreeSet<_>, BTreeSet<_>) = (a.keys().collect(), b.keys().collect());
                if x != y {
                    return Err(format!("{at}: fields {y:?} instead of {x:?}"));
                }
                // Ids first: the rest may hold them.
                a.iter().try_for_each(|(key, value)| self.same(&format!("{at}.{key}"), value, &b[key]))
            }
            (Value::Array(a), Value::Array(b)) => self.same_list(at, a, b),
            (Value::String(a), Value::String(b)) => self.same_text(at, a, b),
            (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => Ok(()),
            (Value::Number(a), Value::Number(b)) if at.ends_with(".timestamp") => {
                match self.stamps.insert(a.as_i64().unwrap(), b.as_i64().unwrap()) {
                    Some(before) if Some(before) != b.as_i64() => Err(format!("{at}: the time of an entry changed")),
                    _ => Ok(()),
                }
            }
            (Value::Number(a), Value::Number(b)) => {
                if self.numbers_differ && at.ends_with(".sequencenr") {
                    return Ok(());
                }
                let measured = ["prioritytime", "waittime", "exectime", "port", "peerport", "relayport", "apiport"];
                if measured.iter().any(|m| at.ends_with(m)) { Ok(()) } else { Err(format!("{at}: {b} instead of {a}")) }
            }
            (a, b) if a == b => Ok(()),
            (a, b) => Err(format!("{at}: {b} instead of {a}")),
        }
    }

    fn same_list(&mut self, at: &str, theirs: &[Value], ours: &[Value]) -> Result<(), String> {
        if theirs.len() != ours.len() {
            return Err(format!("{at}: {} entries instead of {}: {}", ours.len(), theirs.len(), json!(ours)));
        }
        let ordered =
            theirs.iter().any(|v| v.get("timestamp").is_some() || v.get("processid").is_some() || v.get("sequencenr").is_some());
        let mut left: Vec<&Value> = ours.iter().collect();
        for (nr, value) in theirs.iter().enumerate() {
            let candidates = if ordered { 0..1 } else { 0..left.len() };
            let mut why = String::new();
            // Rows whose ids are known already must find their own.
            let found = candidates.into_iter().find(|i| {
                let mut trial = self.clone();
                match trial.same(&format!("{at}[{nr}]"), value, left[*i]) {
                    Ok(()) => {
                        *self = trial;
                        true
                    }
                    Err(e) => {
                        why = e;
                        false
                    }
                }
            });
            left.remove(found.ok_or(why)?);
        }
        Ok(())
    }

    fn same_text(&mut self, at: &str, theirs: &str, ours: &str) -> Result<(), String> {
        let id = |t: &str| t.len() == 64 && t.bytes().all(|b| b.is_ascii_hexdigit());
        let wrong = || Err(format!("{at}: {ours:?} instead of {theirs:?}"));
        if id(theirs) && id(ours) {
            return match self.ids.get(theirs) {
                Some(known) if known == ours => Ok(()),
                Some(_) => wrong(),
                // Two recorded ids are never one of ours.
                None if theirs != ours && self.ids.values().any(|v| v == ours) => wrong(),
                None => {
                    self.ids.insert(theirs.into(), ours.into());
                    Ok(())
                }
            };
        }
        let time = |t: &str| t.len() > 18 && t.as_bytes()[10] == b'T' && pollinator::colonies::time::Time::parse(t).is_ok();
        if time(theirs) && time(ours) {
            let never = |t: &str| t.starts_with("0001-");
            return if never(theirs) == never(ours) { Ok(()) } else { wrong() };
        }
        if at.ends_with(".buildversion")
            || at.ends_with(".buildtime")
            || at.contains(".nodes")
            || at.contains(".leader")
            || at.contains(".backends")
        {
            return Ok(());
        }
        let mut expected = theirs.to_owned();
        for (a, b) in &self.ids {
            expected = expected.replace(a.as_str(), b);
        }
        if expected == ours { Ok(()) } else { wrong() }
    }
}
