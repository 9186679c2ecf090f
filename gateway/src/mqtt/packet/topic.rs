//! Decides what a device may publish and subscribe to: its own branch, `devices/{sensor_id}/`, and nothing
//! else.
//!
//! Pure string comparison. A sensor id holds neither `/` nor wildcards, so no filter can reach beyond the
//! branch.

const BRANCH: &str = "devices/";

/// Returns what follows `devices/{sensor_id}/` in `mqtt_topic`, if it is in that branch.
fn within<'a>(sensor_id: &str, mqtt_topic: &'a str) -> Option<&'a str> {
    mqtt_topic.strip_prefix(BRANCH)?.strip_prefix(sensor_id)?.strip_prefix('/')
}

/// Returns what `mqtt_topic` says below `devices/{own}/readings/`; empty when it says no more.
pub fn below_readings<'a>(sensor_id: &str, mqtt_topic: &'a str) -> &'a str {
    within(sensor_id, mqtt_topic).and_then(|rest| rest.strip_prefix("readings/")).unwrap_or("")
}

/// Tells whether a device may publish to `mqtt_topic`: `devices/{own}/readings` or a topic below it.
pub fn may_publish(sensor_id: &str, mqtt_topic: &str) -> bool {
    match within(sensor_id, mqtt_topic).and_then(|rest| rest.strip_prefix("readings")) {
        Some("") => true,
        Some(below) => below.len() > 1 && below.starts_with('/'),
        None => false,
    }
}

/// Tells whether a device may subscribe to `filter`: any well-formed filter below `devices/{own}/`.
pub fn may_subscribe(sensor_id: &str, filter: &str) -> bool {
    within(sensor_id, filter).is_some_and(|below| !below.is_empty()) && is_filter(filter)
}

/// Tells whether it is a filter (MQTT 5, section 4.7.1): `+` fills a level, `#` fills the last one.
fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_level = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            _ => !level.contains(['+', '#']),
        };
        if !is_level {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_publishes_its_readings_and_topics_below_them() {
        for topic in ["devices/t-1/readings", "devices/t-1/readings/raw", "devices/t-1/readings/été/x"] {
            assert!(may_publish("t-1", topic), "{topic}");
        }
    }

    #[test]
    fn device_publishes_nowhere_else() {
        for topic in [
            "",
            "devices",
            "devices/",
            "devices/t-1",
            "devices/t-1/",
            "devices/t-1/readings/",
            "devices/t-1/readingsx",
            "devices/t-10/readings",
            "devices/t-/readings",
            "devices//readings",
            "/devices/t-1/readings",
            "Devices/t-1/readings",
            "$SYS/broker",
            "été/x",
        ] {
            assert!(!may_publish("t-1", topic), "{topic}");
        }
    }

    #[test]
    fn what_stands_below_the_readings_is_left() {
        for (topic, below) in [
            ("devices/t-1/readings", ""),
            ("devices/t-1/readings/NDATA", "NDATA"),
            ("devices/t-1/readings/DDATA/pump 1", "DDATA/pump 1"),
            ("devices/t-2/readings/NDATA", ""),
        ] {
            assert_eq!(below_readings("t-1", topic), below, "{topic}");
        }
    }

    #[test]
    fn device_subscribes_below_its_own_branch_only() {
        for filter in ["devices/t-1/#", "devices/t-1/commands", "devices/t-1/+/ack", "devices/t-1/+"] {
            assert!(may_subscribe("t-1", filter), "{filter}");
        }
        for filter in [
            "#",
            "+/t-1/#",
            "devices/+/#",
            "devices/#",
            "devices/t-1",
            "devices/t-1/",
            "devices/t-2/#",
            "devices/t-1/#/x",
            "devices/t-1/a#",
            "devices/t-1/a+",
            "$share/g/devices/t-1/#",
            "",
            "été",
        ] {
            assert!(!may_subscribe("t-1", filter), "{filter}");
        }
    }
}
