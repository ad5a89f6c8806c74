//! Runs the same tests through every edge proxy, each with its shipped configuration. They check which requests
//! must pass, which must be refused, and what reaches the services behind the edge.
//!
//! The name of a test contains the proxy: `paths::nginx::a072_…`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

/// Creates a test for each proxy from functions that take an [`Edge`](tests::Edge). If a proxy is not installed,
/// its test is skipped with a message.
macro_rules! each_edge {
    ($($test:ident),+ $(,)?) => {
        each_edge!(@through envoy_http EnvoyHttp $($test)+);
        each_edge!(@through envoy_grpc EnvoyGrpc $($test)+);
        each_edge!(@through nginx Nginx $($test)+);
        each_edge!(@through caddy Caddy $($test)+);
        each_edge!(@through traefik Traefik $($test)+);
    };
    (@through $proxy:ident $edge:ident $($test:ident)+) => {
        mod $proxy {
            $(
                #[tokio::test]
                async fn $test() {
                    let edge = tests::Edge::$edge;
                    if crate::world::is_here(edge, concat!(module_path!(), "::", stringify!($test))) {
                        super::$test(edge).await;
                    }
                }
            )+
        }
    };
}

mod availability;
mod counter_checks;
mod fence;
mod floods;
mod forged;
mod framing;
mod http2;
mod identities;
mod next_door;
mod paths;
mod possession;
mod routers;
mod suite;
mod timeouts;
mod tools;
mod unread;
mod web_page;
mod world;
