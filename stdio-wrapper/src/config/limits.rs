//! The limits for sizes, numbers and times.

use super::Limits;
use super::options::Options;
use super::reader::Reader;

pub(super) fn read(read: &mut Reader, options: &Options) -> Limits {
    let per_principal = read.take(&options.max_sessions_per_principal);
    Limits {
        max_sessions: read.take(&options.max_sessions),
        max_sessions_per_principal: per_principal.map(|max| if max == 0 { usize::MAX } else { max }),
        max_in_flight: read.take(&options.max_in_flight),
        session_idle: read.take(&options.session_idle),
        request_timeout: read.take(&options.request_timeout),
        start_timeout: read.take(&options.start_timeout),
        max_starts: read.take(&options.max_starts),
        stream_after: read.take(&options.stream_after),
        stream_max_age: read.take(&options.stream_max_age),
        translate_sessions: read.take(&options.translate_sessions),
        input_timeout: read.take(&options.input_timeout),
        stream_grace: read.take(&options.stream_grace),
        keep_alive: read.take(&options.keep_alive),
        retry: read.take(&options.retry),
        max_connections: read.take(&options.max_connections),
        max_body: read.take(&options.max_body),
        max_line: read.take(&options.max_line),
        max_batch: read.take(&options.max_batch),
        event_log: read.take(&options.event_log),
        list_cache: read.take(&options.list_cache),
        shutdown_timeout: read.take(&options.shutdown_timeout),
    }
}
