//! The parts of the conversation with one child that are the same in both eras: the requests that wait for an
//! answer, the numbers that replace their ids and progress tokens, how messages are sent, and how the output
//! is read. The modules of the eras determine the caller to whom a message belongs.

mod calls;
mod opening;
mod parsing;
mod reading;
mod rewriting;
mod sending;

pub(crate) use calls::{Call, Calls, Pending};
pub(crate) use parsing::parsed;
pub(crate) use reading::{Answer, Link, relayed};
pub(crate) use rewriting::rewritten;
pub(crate) use sending::{Conversation, Conversations, ROOM_PATIENCE};
