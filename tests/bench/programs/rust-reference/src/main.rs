//! The same as nginx with Lua, written with axum and redis-rs: rust-reference PORT REDIS_PORT
use axum::extract::State;
use axum::http::{header::COOKIE, HeaderMap, StatusCode};
use axum::{routing::get, Router};
use redis::{aio::MultiplexedConnection, AsyncCommands};

type Response = (StatusCode, [(&'static str, String); 1]);

async fn check(State(mut redis): State<MultiplexedConnection>, headers: HeaderMap) -> Response {
    let cookies = headers.get(COOKIE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let token = cookies.split("; ").find_map(|each| each.strip_prefix("__Host-session=")).unwrap_or("");
    let found: redis::RedisResult<Option<String>> = redis.get(format!("session:{token}")).await;
    let status = match &found {
        Ok(Some(_)) => StatusCode::OK,
        Ok(None) => StatusCode::UNAUTHORIZED,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [("x-auth-user", found.ok().flatten().unwrap_or_default())])
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let [port, redis_port] = [1, 2].map(|index| std::env::args().nth(index).expect("PORT REDIS_PORT"));
    let client = redis::Client::open(format!("redis://127.0.0.1:{redis_port}")).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let router = Router::new().route("/auth-request", get(check)).with_state(connection);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port");
    axum::serve(listener, router).await.expect("a listener");
}
