//! Which of the metrics that endpoints report of their load (ORCA) are told with load reports. Source: Envoy
//! `Cluster.lrs_report_endpoint_metrics`.

/// One entry of the list: what it names of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadMetric {
    /// A number that every report has: one that was not said is 0, and counts as one.
    Number(LoadNumber),
    /// One of a family, where the report has it.
    Named(LoadFamily, Box<str>),
    /// All of a family that the report has.
    All(LoadFamily),
}

/// The numbers of a report. Source: `xds.data.orca.v3.OrcaLoadReport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadNumber {
    ApplicationUtilization,
    CpuUtilization,
    MemUtilization,
    /// Errors per second.
    Eps,
    /// Requests per second.
    RpsFractional,
}

/// What a report has under names of the endpoint's own. Source: `xds.data.orca.v3.OrcaLoadReport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadFamily {
    NamedMetrics,
    Utilization,
    RequestCost,
}

impl LoadMetric {
    /// The entry that says `text`; `None`: it names nothing of a report.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(number) = LoadNumber::ALL.into_iter().find(|number| number.name() == text) {
            return Some(Self::Number(number));
        }
        LoadFamily::ALL.into_iter().find_map(|family| match text.strip_prefix(family.prefix())? {
            "*" => Some(Self::All(family)),
            name => Some(Self::Named(family, name.into())),
        })
    }
}

impl LoadNumber {
    pub const ALL: [Self; 5] = [
        Self::ApplicationUtilization,
        Self::CpuUtilization,
        Self::MemUtilization,
        Self::Eps,
        Self::RpsFractional,
    ];

    /// As it is called in configuration, in reports of endpoints and in those about them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApplicationUtilization => "application_utilization",
            Self::CpuUtilization => "cpu_utilization",
            Self::MemUtilization => "mem_utilization",
            Self::Eps => "eps",
            Self::RpsFractional => "rps_fractional",
        }
    }
}

impl LoadFamily {
    pub const ALL: [Self; 3] = [Self::NamedMetrics, Self::Utilization, Self::RequestCost];

    /// What the names of its metrics begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::NamedMetrics => "named_metrics.",
            Self::Utilization => "utilization.",
            Self::RequestCost => "request_cost.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_a_number_one_of_a_family_or_all_of_it() {
        let shown = LoadMetric::parse;
        for number in LoadNumber::ALL {
            assert_eq!(shown(number.name()), Some(LoadMetric::Number(number)));
        }
        let named = |family, name: &str| Some(LoadMetric::Named(family, name.into()));
        assert_eq!(shown("named_metrics.a.b"), named(LoadFamily::NamedMetrics, "a.b"));
        assert_eq!(shown("utilization."), named(LoadFamily::Utilization, ""));
        assert_eq!(shown("request_cost.**"), named(LoadFamily::RequestCost, "**"));
        for family in LoadFamily::ALL {
            assert_eq!(shown(&format!("{}*", family.prefix())), Some(LoadMetric::All(family)));
        }
        for nothing in ["", "*", "rps", "CPU_UTILIZATION", "named_metrics", "cpu_utilization.a"] {
            assert_eq!(shown(nothing), None, "{nothing}");
        }
    }
}
