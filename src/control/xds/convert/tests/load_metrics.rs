//! Which metrics of endpoints' load are told.

use super::load;
use crate::config::load_metrics::{LoadFamily, LoadMetric, LoadNumber};

#[test]
fn metrics_are_taken_in_order_and_what_names_none_is_warned_of() {
    let metrics = |list: &str| {
        let bootstrap = load(&[("CLUSTER", &format!("lrs_report_endpoint_metrics: [{list}]"))]);
        bootstrap.clusters[0].load_metrics.to_vec()
    };
    assert_eq!(metrics(""), []);
    let number = LoadMetric::Number(LoadNumber::Eps);
    assert_eq!(
        metrics("eps, other, \"named_metrics.*\", utilization.a, eps"),
        [
            number.clone(),
            LoadMetric::All(LoadFamily::NamedMetrics),
            LoadMetric::Named(LoadFamily::Utilization, "a".into()),
            number
        ]
    );
}
