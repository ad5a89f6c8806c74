//! Reads sizes, numbers and times. Each has a range of useful values.

use std::time::Duration;

use super::Limits;
use super::options::Options;
use super::reader::Reader;

pub(super) fn read(read: &mut Reader, options: &Options) -> Limits {
    let ms = Duration::from_millis;
    let hours = |count: u64| Duration::from_secs(count * 3600);
    let per_principal = "MAX_SESSIONS_PER_PRINCIPAL";
    let per_principal =
        read.number_or_auto(per_principal, &options.max_sessions_per_principal, 0..=1_000_000);
    Limits {
        max_sessions: read.number_or_auto("MAX_SESSIONS", &options.max_sessions, 1..=1_000_000),
        max_sessions_per_principal: per_principal.map(|max| if max == 0 { usize::MAX } else { max }),
        max_in_flight: read.number("MAX_IN_FLIGHT", &options.max_in_flight, 1..=1_000_000),
        session_idle: read.duration("SESSION_IDLE", &options.session_idle, ms(100)..=hours(24 * 30)),
        request_timeout: read.duration("REQUEST_TIMEOUT", &options.request_timeout, ms(100)..=hours(24)),
        start_timeout: read.duration("START_TIMEOUT", &options.start_timeout, ms(100)..=hours(1)),
        max_starts: read.number_or_auto("MAX_STARTS", &options.max_starts, 1..=1000),
        stream_after: read.duration("STREAM_AFTER", &options.stream_after, ms(1)..=hours(1)),
        stream_max_age: read.duration("STREAM_MAX_AGE", &options.stream_max_age, ms(100)..=hours(24 * 30)),
        translate_sessions: read.number("TRANSLATE_SESSIONS", &options.translate_sessions, 1..=1000),
        input_timeout: read.duration("INPUT_TIMEOUT", &options.input_timeout, ms(100)..=hours(24)),
        stream_grace: read.duration("STREAM_GRACE", &options.stream_grace, Duration::ZERO..=hours(24)),
        keep_alive: read.duration("KEEP_ALIVE", &options.keep_alive, ms(100)..=hours(1)),
        retry: read.duration("RETRY", &options.retry, ms(1)..=hours(1)),
        max_connections: read.number("MAX_CONNECTIONS", &options.max_connections, 10..=1_000_000),
        max_body: read.size("MAX_BODY", &options.max_body, 1024..=1 << 30),
        max_line: read.size("MAX_LINE", &options.max_line, 1024..=1 << 30),
        max_batch: read.number("MAX_BATCH", &options.max_batch, 1..=10_000),
        event_log: read.size("EVENT_LOG", &options.event_log, 0..=1 << 30),
        list_cache: read.size("LIST_CACHE", &options.list_cache, 0..=1 << 30),
        shutdown_timeout: read.duration(
            "SHUTDOWN_TIMEOUT",
            &options.shutdown_timeout,
            Duration::ZERO..=hours(1),
        ),
    }
}
