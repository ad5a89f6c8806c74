//! A stream lasts longer than any time limit on requests.

use tests::Edge;

use crate::suite;
use crate::world::{self, BROKEN, Broken};

/// Traefik's only limit on slow request heads is one on whole requests. It must not end answers.
#[tokio::test]
async fn traefik_streams_past_its_read_timeout() {
    if !world::is_here(Edge::Traefik, "timeouts::traefik_streams_past_its_read_timeout") {
        return;
    }
    // The events take 1.7 s.
    let change = ("readTimeout: 60s".to_owned(), "readTimeout: 1s".to_owned());
    let changed = Broken { changes: vec![change], ..Broken::default() };
    BROKEN.scope(changed, suite::events_arrive_one_by_one(Edge::Traefik)).await;
}
