//! The documentation and the service name the same things.

#[test]
fn documentation_names_only_metrics_that_exist() {
    testkit::docs::assert_metrics_exist("threshold_", &threshold_svc::metric_names());
}
