//! Metrics as a struct: a field is a metric, its docstring the help text, and the names can be listed.

#[doc(hidden)]
pub use prometheus;

use prometheus::Registry;
use prometheus::core::Collector;

/// Declares a struct of metrics, with `register`, which makes and registers them, and `names`, which lists
/// them so that dashboards and documents can be held against the list.
///
/// Shape of a field: `name: Type = "metric_name"`, then where it applies `by ["label", …]` and, for
/// histograms, `in` its buckets. A field without a metric's name is a group, another struct of this macro:
/// `tls: Tls`. A struct whose name is followed by `(prefix)` takes a prefix for its names, which `_`
/// separates.
///
/// ```
/// use prometheus::{Histogram, IntCounter, IntCounterVec, Registry};
///
/// chassis::metrics! {
///     /// Counts what a ferry does.
///     #[derive(Clone, Debug)]
///     pub struct Metrics {
///         /// Passengers carried, by class.
///         passengers: IntCounterVec = "ferry_passengers_total" by ["class"],
///         /// Time from shore to shore.
///         crossing_seconds: Histogram = "ferry_crossing_seconds" in [60.0, 600.0, 3600.0],
///         /// What its engine does.
///         engine: Engine,
///     }
/// }
/// chassis::metrics! {
///     /// Counts what an engine does.
///     #[derive(Clone, Debug)]
///     struct Engine {
///         /// Starts.
///         starts: IntCounter = "ferry_engine_starts_total",
///     }
/// }
/// # fn main() -> prometheus::Result<()> {
/// let metrics = Metrics::register(&Registry::new())?;
/// metrics.engine.starts.inc();
/// metrics.passengers.with_label_values(&["first"]).inc();
/// metrics.crossing_seconds.observe(754.0);
/// assert_eq!(
///     Metrics::names(),
///     ["ferry_passengers_total", "ferry_crossing_seconds", "ferry_engine_starts_total"]
/// );
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! metrics {
    ($(#[$about:meta])* $vis:vis struct $Metrics:ident {$($fields:tt)+}) => {
        $crate::metrics!(@struct registry (registry: &$crate::metrics::prometheus::Registry) () []
            $(#[$about])* $vis struct $Metrics {$($fields)+});
    };
    ($(#[$about:meta])* $vis:vis struct $Metrics:ident ($prefix:ident) {$($fields:tt)+}) => {
        $crate::metrics!(@struct registry (registry: &$crate::metrics::prometheus::Registry, $prefix: &str)
            ($prefix: &str) [$prefix] $(#[$about])* $vis struct $Metrics {$($fields)+});
    };
    (
        @struct $registry:ident $register:tt $names:tt $prefix:tt
        $(#[$about:meta])* $vis:vis struct $Metrics:ident {$(
            $(#[doc = $help:literal])+
            $field_vis:vis $field:ident: $Type:ident
            $(= $name:literal $(by [$($label:literal),+])? $(in $buckets:expr)?)?
        ),+ $(,)?}
    ) => {
        $(#[$about])*
        $vis struct $Metrics {
            $($(#[doc = $help])+ $field_vis $field: $Type,)+
        }

        impl $Metrics {
            /// Makes the metrics and registers them.
            ///
            /// # Errors
            /// A name is registered already (stop).
            $vis fn register $register -> $crate::metrics::prometheus::Result<Self> {
                Ok(Self {$(
                    $field: $crate::metrics!(@make $registry $Type [$($help)+]
                        $($prefix $name $(by [$($label),+])? $(in $buckets)?)?),
                )+})
            }

            /// Lists the names of the metrics, groups in the place of their fields.
            $vis fn names $names -> Vec<String> {
                [$($crate::metrics!(@names $Type $($prefix $name)?)),+].concat()
            }
        }
    };
    (@names $Group:ident) => { $Group::names() };
    (@names $Type:ident $prefix:tt $name:literal) => { vec![$crate::metrics::name(&$prefix, $name)] };
    (@make $registry:ident $Group:ident $help:tt) => { $Group::register($registry)? };
    (@make $registry:ident $Type:ident [$($help:literal)+] $prefix:tt $name:literal
        $(by $labels:tt)? $(in $buckets:expr)?
    ) => {{
        let (name, help) = ($crate::metrics::name(&$prefix, $name), concat!($($help),+).trim());
        let opts = $crate::metrics!(@opts name help $($buckets)?);
        $crate::metrics::register($registry, $crate::metrics!(@collector $Type opts $($labels)?)?)?
    }};
    (@opts $name:ident $help:ident) => { $crate::metrics::prometheus::Opts::new($name, $help) };
    (@opts $name:ident $help:ident $buckets:expr) => {
        $crate::metrics::prometheus::HistogramOpts::new($name, $help).buckets(Vec::from($buckets))
    };
    (@collector $Type:ident $opts:ident) => { $Type::with_opts($opts) };
    (@collector $Type:ident $opts:ident $labels:tt) => { $Type::new($opts, &$labels) };
}

/// Puts the prefix, if there is one, before a metric's name.
#[doc(hidden)]
pub fn name(prefix: &[&str], name: &str) -> String {
    [prefix, &[name]].concat().join("_")
}

/// Registers a metric.
#[doc(hidden)]
pub fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};

    metrics! {
        /// Holds one metric of each kind.
        struct Metrics {
            /// Doors opened.
            opened: IntCounter = "house_doors_opened_total",
            /// Guests by name and
            /// by what they brought.
            guests: IntCounterVec = "house_guests_total" by ["name", "gift"],
            /// Warmth.
            warmth: Gauge = "house_warmth_celsius",
            /// Time at table.
            meal: Histogram = "house_meal_seconds" in prometheus::exponential_buckets(1.0, 60.0, 2)?,
            /// The garden.
            garden: Garden,
        }
    }

    metrics! {
        /// Holds a group.
        struct Garden {
            /// Trees.
            trees: IntGauge = "garden_trees",
        }
    }

    metrics! {
        /// Holds metrics of which there may be several sets.
        struct Pond(prefix) {
            /// Fish.
            fish: IntGauge = "fish",
        }
    }

    const SHOWN: &str = "\
# HELP garden_trees Trees.
# TYPE garden_trees gauge
garden_trees 3
# HELP house_doors_opened_total Doors opened.
# TYPE house_doors_opened_total counter
house_doors_opened_total 1
# HELP house_guests_total Guests by name and by what they brought.
# TYPE house_guests_total counter
house_guests_total{gift=\"wine\",name=\"eva\"} 1
# HELP house_meal_seconds Time at table.
# TYPE house_meal_seconds histogram
house_meal_seconds_bucket{le=\"1\"} 0
house_meal_seconds_bucket{le=\"60\"} 1
house_meal_seconds_bucket{le=\"+Inf\"} 1
house_meal_seconds_sum 30
house_meal_seconds_count 1
# HELP house_warmth_celsius Warmth.
# TYPE house_warmth_celsius gauge
house_warmth_celsius 21.5
# HELP north_fish Fish.
# TYPE north_fish gauge
north_fish 7
# HELP south_fish Fish.
# TYPE south_fish gauge
south_fish 0
";

    #[test]
    fn metric_shows_its_docstring_as_help() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.opened.inc();
        metrics.guests.with_label_values(&["eva", "wine"]).inc();
        metrics.warmth.set(21.5);
        metrics.meal.observe(30.0);
        metrics.garden.trees.set(3);
        Pond::register(&registry, "north").unwrap().fish.set(7);
        Pond::register(&registry, "south").unwrap();
        assert_eq!(TextEncoder::new().encode_to_string(&registry.gather()).unwrap(), SHOWN);
    }

    #[test]
    fn names_are_those_that_are_shown() {
        let mut names = [Metrics::names(), Pond::names("north"), Pond::names("south")].concat();
        names.sort();
        let shown: Vec<_> = SHOWN.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let shown: Vec<_> = shown.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, shown);
    }

    #[test]
    fn name_that_is_taken_is_refused() {
        let registry = Registry::new();
        Pond::register(&registry, "north").unwrap();
        assert!(Pond::register(&registry, "north").is_err());
    }
}
