//! The envelope around every request and reply: base64 of JSON text, signed as text.

use super::identity;
use super::identity::Identity;
use super::identity::SignatureError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

/// A request as it is POSTed to `/api`, or sent as the first frame of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Hex of `r || s || v` over the text of `payload`.
    #[serde(default, alias = "SIGNATURE", alias = "Signature")]
    pub signature: String,
    /// Name of the call; equals `msgtype` in the payload.
    #[serde(default, alias = "PAYLOADTYPE", alias = "PayloadType", alias = "payloadType")]
    pub payloadtype: String,
    /// Standard base64, padded, of the JSON text.
    #[serde(default, alias = "PAYLOAD", alias = "Payload")]
    pub payload: String,
}

impl Request {
    /// Signs `payload`; `msgtype` is put into it.
    pub fn signed(identity: &Identity, msgtype: &str, payload: Value) -> Request {
        let mut request = Request::unsigned(msgtype, payload);
        request.signature = identity.sign(&request.payload);
        request
    }

    /// For the two calls that need no signature.
    pub fn unsigned(msgtype: &str, mut payload: Value) -> Request {
        if let Some(object) = payload.as_object_mut() {
            object.insert("msgtype".into(), Value::String(msgtype.into()));
        }
        Request { signature: String::new(), payloadtype: msgtype.into(), payload: STANDARD.encode(payload.to_string()) }
    }

    /// Who signed it.
    pub fn signer(&self) -> Result<String, SignatureError> {
        identity::recover(&self.payload, &self.signature)
    }

    /// The decoded payload; none when it is not base64 of JSON.
    pub fn decoded(&self) -> Option<Value> {
        serde_json::from_slice(&STANDARD.decode(&self.payload).ok()?).ok()
    }
}

/// A reply, also each frame of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Name of the call, or `error`.
    pub payloadtype: String,
    /// Base64 of the JSON text.
    pub payload: String,
    /// Whether the payload is a [`Refusal`].
    #[serde(default)]
    pub error: bool,
}

/// The payload of an error reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The HTTP status once more.
    pub status: u16,
    /// Words for a person.
    pub message: String,
}

impl Reply {
    /// An answer; the payload is indented, as the real server writes it.
    pub fn answer(payloadtype: &str, payload: &impl Serialize) -> Reply {
        let text = serde_json::to_string_pretty(payload).unwrap_or_else(|_| "null".into());
        Reply { payloadtype: payloadtype.into(), payload: STANDARD.encode(text), error: false }
    }

    /// A refusal.
    pub fn refusal(status: u16, message: &str) -> Reply {
        let refusal = serde_json::json!({ "status": status, "message": message });
        Reply { payloadtype: "error".into(), payload: STANDARD.encode(refusal.to_string()), error: true }
    }

    /// Reads a body. Only the first of several JSON objects counts: the real server sends two where its database failed.
    pub fn read(body: &[u8]) -> Result<Reply, String> {
        match serde_json::Deserializer::from_slice(body).into_iter::<Reply>().next() {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(e)) => Err(format!("no reply envelope: {e}")),
            None => Err("an empty body".into()),
        }
    }

    /// The payload's bytes.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        STANDARD.decode(&self.payload).map_err(|e| format!("the payload is not base64: {e}"))
    }

    /// The refusal, where this is one.
    pub fn as_refusal(&self) -> Option<Refusal> {
        if !self.error && self.payloadtype != "error" {
            return None;
        }
        let read = self.bytes().ok().and_then(|b| serde_json::from_slice(&b).ok());
        Some(read.unwrap_or(Refusal { status: 0, message: "the server gave no reason".into() }))
    }
}
