//! The control socket, spoken to without our client: what `docs/control.openapi.yaml` says is what is answered.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use serde_json::Value;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// One request in plain HTTP/1.1; gives the status and the body, in whatever pieces it came.
fn ask(agency: &Agency, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(agency.lab.state().join("agent.sock")).unwrap();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut chunked = false;
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        chunked |= line.to_lowercase().starts_with("transfer-encoding: chunked");
        if line.trim().is_empty() {
            break;
        }
    }
    if !chunked {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        return (status, text);
    }
    let mut text = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).unwrap();
        text.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return (status, String::from_utf8(text).unwrap());
        }
    }
}

fn openapi() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/control.openapi.yaml");
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Holds a value against the schema: every required field is there, every field is described, and its type is one of those named.
fn conforms(api: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => api.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}")),
        None => schema,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
        _ => vec![kind],
    };
    assert!(types.contains(&kind), "{at} is {kind}, not {types:?}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at} is {value}, not one of {words:?}");
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{at} lacks {required}");
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        if let Some(described) = schema["properties"].as_object() {
            let described = described.get(name).unwrap_or_else(|| panic!("{at}.{name} is not described"));
            conforms(api, described, field, &format!("{at}.{name}"));
        }
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        conforms(api, &schema["items"], item, &format!("{at}[{number}]"));
    }
}

#[test]
fn answers_are_what_the_description_says() {
    let agency = Agency::new();
    let project = agency.lab.project("described", "print('x')\n");
    agency.watch(&project);
    agency.lab.run_in(&project, ["run", "--follow"]).expect_code(0);
    let api = openapi();
    let schema = |path: &str, method: &str| {
        api["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"].clone()
    };
    let get = |path: &str, at: &str| {
        let (status, body) = ask(&agency, "GET", at, "");
        assert_eq!(status, 200, "{body}");
        let value: Value = serde_json::from_str(&body).unwrap();
        conforms(&api, &schema(path, "get"), &value, path);
        value
    };
    get("/v1/agent", "/v1/agent");
    let all = get("/v1/status", "/v1/status");
    assert_eq!(all["projects"][0]["runs"][0]["state"], "success");
    get("/v1/status", &format!("/v1/status?root={}", project.display()));
    let lines = api["components"]["schemas"]["Line"].clone();
    let body = serde_json::json!({ "root": project, "job": { "job": "run", "processes": 1 } }).to_string();
    let (status, text) = ask(&agency, "POST", "/v1/work", &body);
    assert_eq!(status, 200, "{text}");
    let said: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    said.iter().for_each(|line| conforms(&api, &lines, line, "line"));
    assert_eq!((said[0]["what"]["event"].as_str(), said.last().unwrap()["line"].as_str()), (Some("submitted"), Some("done")));
}

#[test]
fn every_call_is_described_and_what_is_wrong_is_refused_in_words() {
    let agency = Agency::new();
    let api = openapi();
    let refusal = api["components"]["responses"]["Refusal"]["content"]["application/json"]["schema"].clone();
    for (path, methods) in api["paths"].as_object().unwrap() {
        if !methods["post"]["requestBody"].is_null() {
            // Something that is no JSON, or not what is wanted, is refused and harms nobody.
            let (status, _) = ask(&agency, "POST", path, "{\"root\": 7");
            assert!((400..500).contains(&status), "{path}: {status}");
        }
    }
    let nobody = serde_json::json!({ "root": "/nowhere" }).to_string();
    for (method, path, body) in [
        ("GET", "/v1/status?root=/nowhere", ""),
        ("GET", "/v2/anything", ""),
        ("POST", "/v1/add", &*nobody),
        ("POST", "/v1/remove", &*nobody),
        ("POST", "/v1/pause", &*nobody),
        ("POST", "/v1/work", "{\"root\": \"/nowhere\", \"job\": {\"job\": \"flush\"}}"),
    ] {
        let (status, text) = ask(&agency, method, path, body);
        assert!((400..500).contains(&status), "{path}: {status}");
        conforms(&api, &refusal, &serde_json::from_str(&text).unwrap(), path);
    }
    // Garbage on the socket ends that connection only.
    let mut stream = UnixStream::connect(agency.lab.state().join("agent.sock")).unwrap();
    stream.write_all(&[0xff; 4096]).unwrap();
    let mut rest = Vec::new();
    // An answer in words or none: what counts is that it ends, and only it.
    let ended = stream.read_to_end(&mut rest).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(_) | Err(std::io::ErrorKind::ConnectionReset)), "{ended:?}");
    assert_eq!(agency.status()["ok"], true);
}
