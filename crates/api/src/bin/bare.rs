//! The least that a server can do, to measure the server beside: a route that answers a constant, on the runtime and the
//! HTTP library that Wattle has. It prints its address and answers until it is killed.
#![allow(clippy::print_stdout)]

use axum::{Router, http::header, routing::post};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let answer = || async { ([(header::CONTENT_TYPE, "application/json")], r#"{"y_pred":[[3.0]]}"#) };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("bare listens on http://{}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/predict", post(answer))).await
}
