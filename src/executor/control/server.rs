//! The executor's end of its socket.

use super::model::Status;
use crate::blocking;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use axum::routing::post;
use std::sync::Arc;

/// What answers.
pub trait Answers: Send + Sync + 'static {
    /// How it stands.
    ///
    /// # Errors
    /// Says why that cannot be told.
    fn status(&self) -> Result<Status, String>;

    /// Looks at once whether there are wishes.
    fn look(&self);
}

/// The calls.
pub fn router(who: Arc<dyn Answers>) -> Router {
    Router::new().route("/v1/status", get(status)).route("/v1/look", post(look)).with_state(who)
}

async fn status(State(who): State<Arc<dyn Answers>>) -> Response {
    // The journal is read, and may be busy.
    match blocking::run(move || who.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response(),
    }
}

async fn look(State(who): State<Arc<dyn Answers>>) -> Json<serde_json::Value> {
    who.look();
    Json(serde_json::json!({}))
}
