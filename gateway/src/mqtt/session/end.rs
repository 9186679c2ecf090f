//! How a session ends, and in which words.

use crate::device::connections::Closing;
use crate::device::registry::Denied;
use crate::mqtt::packet::{DisconnectReason, Refusal};
use std::borrow::Cow;

/// How a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client said DISCONNECT.
    Left,
    /// The socket ended or failed.
    Lost,
    /// The client takes nothing of what it is sent.
    Stalled,
    /// The gateway ends it, and says why where the version has words for it.
    Told(DisconnectReason, Cow<'static, str>),
}

impl End {
    pub(super) fn told(reason: DisconnectReason, text: &'static str) -> Self {
        Self::Told(reason, Cow::Borrowed(text))
    }

    /// The reason as a metric label.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Stalled => "stalled",
            Self::Told(reason, _) => reason.label(),
        }
    }
}

impl From<Denied> for End {
    fn from(denied: Denied) -> Self {
        let reason = match denied {
            Denied::Suspended | Denied::Retired => DisconnectReason::Administrative,
            Denied::Unregistered | Denied::Certificate | Denied::Revoked | Denied::Expired => {
                DisconnectReason::NotAuthorized
            }
        };
        Self::Told(reason, denied.to_string().into())
    }
}

impl From<Closing> for End {
    fn from(closing: Closing) -> Self {
        match closing {
            Closing::TakenOver => {
                let text = "another connection came with this certificate and client id";
                Self::told(DisconnectReason::TakenOver, text)
            }
            Closing::Denied(denied) => denied.into(),
            Closing::ShuttingDown => {
                Self::told(DisconnectReason::ShuttingDown, "the gateway stops: connect again")
            }
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::Malformed(_) | Refusal::NotMqtt => DisconnectReason::Malformed,
            Refusal::Protocol(_) | Refusal::Version(_) => DisconnectReason::Protocol,
            Refusal::TooLarge { .. } => DisconnectReason::TooLarge,
        };
        Self::Told(reason, refusal.to_string().into())
    }
}
