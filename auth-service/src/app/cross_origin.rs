//! Cross-origin access to the endpoints that browser-based clients call: any origin is allowed, but never with cookies
//! (Fetch standard, "CORS protocol").

use actix_cors::Cors;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, AUTHORIZATION, CONTENT_TYPE, HeaderName,
    HeaderValue,
};
use actix_web::middleware::Next;
use actix_web::{Error, Resource};

/// Name of the resources that web pages can call. [`let_pages_read`] recognizes them by it.
const FOR_WEB_PAGES: &str = "for web pages";
/// The response headers that a page can read besides those that every page can read.
const EXPOSED: &str = "www-authenticate, dpop-nonce, retry-after";

/// Lets web pages of any origin call a resource with these methods.
pub(super) fn for_web_pages(
    resource: Resource,
    methods: &[Method],
) -> Resource<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<EitherBody<BoxBody>>,
        Error = Error,
        InitError = (),
    > + 'static,
> {
    let cors = Cors::default()
        .allow_any_origin()
        .send_wildcard()
        .allowed_methods(methods.to_vec())
        .allowed_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static("mcp-protocol-version"),
            HeaderName::from_static("dpop"),
        ])
        .expose_headers(EXPOSED.split(", "))
        .max_age(600);
    resource.name(FOR_WEB_PAGES).wrap(cors)
}

/// Middleware that lets web pages also read the responses to requests that are refused before they reach their
/// resource. Without these headers, a page would see only a network error instead of the cause.
pub(super) async fn let_pages_read<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    // The response to a refused preflight gets no such headers, because a browser would still reject it for its status.
    let is_for_web_pages =
        request.method() != Method::OPTIONS && request.request().match_name() == Some(FOR_WEB_PAGES);
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    if is_for_web_pages && !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    Ok(response)
}
