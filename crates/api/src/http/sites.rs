//! Requests that a page of another site has a browser send.

use axum::{
    extract::Request,
    http::{HeaderValue, Uri, header},
};

use crate::{ApiError, Code};

/// Refuses a request that a page of another site sent: such a page, open in a browser on this machine, could otherwise
/// use a server on loopback.
pub(super) fn other_site(request: &Request, hosts: Option<&[String]>) -> Option<ApiError> {
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let authority = header(header::HOST).or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if let (Some(hosts), Some(authority)) = (hosts, authority) {
        let name = host_name(authority);
        if !hosts.iter().any(|host| host.eq_ignore_ascii_case(name)) {
            let shown: String = name.chars().take(100).collect();
            let message =
                format!("this server is not called {shown}: if it should be, start it with --allow-host {shown}");
            return Some(ApiError::new(Code::Forbidden, message));
        }
    }
    let origin = request.headers().get(header::ORIGIN)?;
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    (origin.as_ref().and_then(Uri::authority).map(|origin| origin.as_str()) != authority)
        .then(|| ApiError::new(Code::Forbidden, "requests from pages of other sites are refused"))
}

/// The host of `host:port`, without its port.
fn host_name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}
