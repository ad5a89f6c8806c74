//! The principal who uses a child, in log lines about the child.

use std::sync::{Arc, OnceLock};

/// The principal who uses a child, once it was taken. The name is empty if the child serves all users.
pub(super) type Owner = Arc<OnceLock<Arc<str>>>;

/// The user in log lines about a child. `None` if the child has no single user.
pub(super) fn user_of(owner: &OnceLock<Arc<str>>) -> Option<&str> {
    owner.get().map(|owner| &**owner).filter(|owner| !owner.is_empty())
}
