//! One suite through every edge proxy, each with the configuration that is shipped for it: what it must let pass, what
//! it must refuse, and what reaches the services behind it.
//!
//! The name of a test ends with the proxy and what must hold: `paths::nginx::a072_…`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

/// Makes, of functions that take an [`Edge`](tests::Edge), a test for each proxy. A proxy that this machine does not have
/// is skipped, and the test says so.
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
mod floods;
mod forged;
mod framing;
mod identities;
mod paths;
mod possession;
mod routers;
mod suite;
mod timeouts;
mod tools;
mod web_page;
mod world;
