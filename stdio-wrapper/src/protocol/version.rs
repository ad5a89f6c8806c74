//! The protocol revisions with the `initialize` handshake.

/// A revision of MCP. The variants are in chronological order, so that `>=` means "this revision or a later
/// one".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 2024-11-05: HTTP with two endpoints (deprecated).
    V2024_11_05,
    /// 2025-03-26: Streamable HTTP, the only revision with batches.
    V2025_03_26,
    /// 2025-06-18: the `MCP-Protocol-Version` header, no batches.
    V2025_06_18,
    /// 2025-11-25: priming events.
    V2025_11_25,
}

impl Version {
    /// All supported revisions with a handshake.
    pub const ALL: [Self; 4] = [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25];

    /// The newest revision with a handshake.
    pub const LATEST: Self = Self::V2025_11_25;

    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
        }
    }

    /// Parses the name in messages.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// Whether the revision has batches. Only 2025-03-26 has them ("Batching").
    pub fn has_batches(self) -> bool {
        self == Self::V2025_03_26
    }

    /// Whether a stream starts with an event without data (2025-11-25, "Sending Messages to the Server"). Older
    /// clients treat such an event as a malformed message.
    pub fn has_priming(self) -> bool {
        self >= Self::V2025_11_25
    }
}
