//! The names of sensors, metrics, zones and device types, and their bounds.

/// Longest sensor id, in bytes. It travels as certificate CN, MQTT topic level, Kafka key and column.
pub const SENSOR_ID_BYTES_MAX: usize = 128;
/// Longest metric name, in bytes.
pub const METRIC_BYTES_MAX: usize = 64;

/// Longest name of a zone or a device type, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

/// Says why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`.
    #[error("sensor id must match [A-Za-z0-9][A-Za-z0-9_.-]{{0,127}}")]
    SensorId,
    /// Not `[A-Za-z][A-Za-z0-9_.]{0,63}`.
    #[error("metric must match [A-Za-z][A-Za-z0-9_.]{{0,63}}")]
    Metric,
    /// Not `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
    #[error("must match [A-Za-z0-9][A-Za-z0-9_.-]{{0,63}}")]
    Label,
}

/// Checks a sensor id against `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`.
///
/// # Errors
/// [`IdentityError::SensorId`].
pub fn check_sensor_id(text: &str) -> Result<(), IdentityError> {
    let bytes = text.as_bytes();
    let valid = matches!(bytes.first(), Some(first) if first.is_ascii_alphanumeric())
        && bytes.len() <= SENSOR_ID_BYTES_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
    if valid { Ok(()) } else { Err(IdentityError::SensorId) }
}

/// Checks a metric name against `[A-Za-z][A-Za-z0-9_.]{0,63}`.
///
/// # Errors
/// [`IdentityError::Metric`].
pub fn check_metric(text: &str) -> Result<(), IdentityError> {
    let bytes = text.as_bytes();
    let valid = matches!(bytes.first(), Some(first) if first.is_ascii_alphabetic())
        && bytes.len() <= METRIC_BYTES_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(byte));
    if valid { Ok(()) } else { Err(IdentityError::Metric) }
}

/// Checks the name of a zone or a device type against `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
///
/// # Errors
/// [`IdentityError::Label`].
pub fn check_label(text: &str) -> Result<(), IdentityError> {
    let bytes = text.as_bytes();
    let valid = matches!(bytes.first(), Some(first) if first.is_ascii_alphanumeric())
        && bytes.len() <= LABEL_BYTES_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
    if valid { Ok(()) } else { Err(IdentityError::Label) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        for good in ["a", "7", "thermostat-1", "A_b.c-d", &"x".repeat(128)] {
            assert_eq!(check_sensor_id(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "é", "a\0", &"x".repeat(129)] {
            assert_eq!(check_sensor_id(bad), Err(IdentityError::SensorId), "{bad}");
        }
        for good in ["t", "engine.rpm", "Heart_Rate2", &"x".repeat(64)] {
            assert_eq!(check_metric(good), Ok(()), "{good}");
        }
        for bad in ["", "2t", "_t", "a-b", "a b", "é", &"x".repeat(65)] {
            assert_eq!(check_metric(bad), Err(IdentityError::Metric), "{bad}");
        }
        for good in ["T", "7", "living-room", "a_b.c", &"x".repeat(64)] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a b", "é", &"x".repeat(65)] {
            assert_eq!(check_label(bad), Err(IdentityError::Label), "{bad}");
        }
    }
}
