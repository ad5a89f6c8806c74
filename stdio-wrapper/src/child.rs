//! Child processes: starting, framing, supervising and ending them. What the messages mean is not known here.

mod backoff;
mod command;
mod descent;
mod filter;
mod framing;
mod isolation;
mod launcher;
mod limits;
mod line_log;
mod numbers;
mod orders;
mod pressure;
mod process;
mod reader;
mod reaper;
mod spares;
mod stderr;
mod supervised;
mod supervisor;
mod warm_up;
mod writer;

pub use command::{CommandError, Placeholders};
pub use framing::{Decoder, Frame, Framing, LineFraming};
pub use isolation::{Boundary, Isolation, Unavailable};
pub use launcher::{Launcher, Spec, StartError};
pub use limits::raise_files;
pub use line_log::LineLog;
pub use numbers::{Numbers, Random, Width};
pub use orders::SUPERVISE;
pub use process::{Child, Exit};
pub use reader::{Account, Frames, Output, read_frames};
pub use reaper::Reaper;
pub use stderr::{Pass, RateLimit};
pub use supervisor::supervise;
pub use writer::{Closed, Outbox};
