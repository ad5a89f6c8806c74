//! Child processes: how they are started, read, written to, supervised and stopped. This module does not
//! interpret the messages.

mod backoff;
mod becoming;
mod command;
mod descent;
mod filter;
mod framing;
mod isolation;
mod keepers;
mod launcher;
mod limits;
mod line_log;
mod numbers;
mod orders;
mod pipes;
mod pressure;
mod process;
mod reader;
mod reaper;
mod relief;
mod sharing;
mod spares;
mod starts;
mod stderr;
mod supervised;
mod supervisor;
mod turns;
mod warm_up;
mod writer;

pub use becoming::become_child;
pub use command::{CommandError, Placeholders};
pub use framing::{Decoder, Frame, Framing, LineFraming};
pub use isolation::{Boundary, Isolation, Unavailable};
pub use keepers::{EXIT_PATIENCE, EndReason, FEW, Gone, Keeper, Newcomer};
pub use launcher::{Launcher, Spec, StartError};
pub use limits::raise_files;
pub use line_log::LineLog;
pub use numbers::{Numbers, Random, Width};
pub use orders::{BECOME, SUPERVISE};
pub use process::{Child, Exit};
pub use reader::{Account, Frames, Output, read_frames};
pub use reaper::Reaper;
pub use relief::Held;
pub use starts::{Busy, Turn};
pub use stderr::{Pass, RateLimit};
pub use supervisor::supervise;
pub use writer::{Closed, Outbox};

pub use crate::capacity::Measure;
