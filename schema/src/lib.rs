//! The contract: everything that crosses a process boundary, and nothing that does I/O.
//!
//! | topic | key | value | written by | read by |
//! |---|---|---|---|---|
//! | [`topics::READINGS`] | sensor id | [`ReadingCreatedEvent`] | gateway | command-svc, alerting-svc, lake-svc |
//! | [`topics::PRODUCER_DLQ`] | sensor id | original MQTT payload, [`dead_letter`] | gateway | operators |
//! | [`topics::READING_DLQ`] | as the source record | original record, [`dead_letter`] | command-svc | operators |
//! | [`topics::THRESHOLD_UPDATES`] | row key | [`Change`]`<`[`ThresholdRow`]`>` | cdc-svc | alerting-svc |
//! | [`topics::DEVICE_UPDATES`] | row key | [`Change`]`<`[`DeviceRow`]`>` | cdc-svc | gateway |
//! | [`topics::SILENCE_UPDATES`] | row key | [`Change`]`<`[`SilenceRow`]`>` | cdc-svc | alerting-svc |
//! | [`topics::ALERTS`] | sensor id | [`Alert`] | alerting-svc | notification consumers |
//! | [`topics::NOTIFY_DLQ`] | as the source record | original record, [`dead_letter`] | notify-svc | operators |
//! | [`topics::ALERT_STATE`] | [`EpisodeKey`] | [`Episode`] | alerting-svc | alerting-svc |
//!
//! Everything is UTF-8 JSON. Changes are additive: a released message decodes for ever, which
//! `tests/contract.rs` holds against one frozen file per version.

mod alert;
mod change;
mod codec;
mod device;
mod episode;
mod identity;
mod layout;
mod order;
mod reading;
mod reading_view;
mod silence;
mod storable;
mod threshold;
mod timestamp;

pub mod dead_letter;
pub mod migrations;
pub mod topics;

pub use alert::{Alert, Bound, EpisodeStep, Limit, Reason, Status};
pub use change::{Change, ChangeError, Op, RowKey, Source};
pub use codec::Codec;
pub use device::{DeviceKey, DeviceRow, DeviceStatus};
pub use episode::{Episode, EpisodeKey, EpisodeState, Extremes, NoEpisodeKey};
pub use identity::{
    IdentityError, LABEL_BYTES_MAX, METRIC_BYTES_MAX, SENSOR_ID_BYTES_MAX, check_label, check_metric,
    check_sensor_id,
};
pub use layout::{
    LAYOUT_BYTES_MAX, LAYOUT_FIELDS_MAX, LAYOUT_LENGTH_MAX, Layout, LayoutClock, LayoutField, LayoutKind,
    LayoutNumber,
};
pub use order::{DELETED_KEYS_MAX, Order, Position, Verdict};
pub use reading::{
    ReadingCreatedEvent, event_id_from_payload, event_id_from_publisher, event_id_from_publisher_part,
};
pub use reading_view::ReadingView;
pub use silence::{SilenceKey, SilenceRow};
pub use storable::{
    ATTRIBUTES_BYTES_MAX, Unstorable, VALUE_MAX, attributes_bytes, check_attributes, check_value,
};
pub use threshold::{Mode, NoRepeat, NoScope, Repeat, Scope, Severity, ThresholdKey, ThresholdRow};
pub use timestamp::{Timestamp, TimestampError};
