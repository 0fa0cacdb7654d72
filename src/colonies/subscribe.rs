//! Subscriptions by websocket.
