//! The command line in `/server_info`: Envoy's `CommandLineOptions`.
use super::{Action, DrainStrategy, IpVersion, Options};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

impl Options {
    /// Envoy's `admin.v3.CommandLineOptions` as JSON, with the number of workers that was chosen.
    pub fn to_json(&self, workers: usize) -> Value {
        let path = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let duration = |duration: Duration| format!("{}s", duration.as_secs_f64());
        let tags: Vec<_> = self.stats_tags.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        json!({
            "base_id": self.hot_restart.base_id.to_string(),
            "use_dynamic_base_id": self.hot_restart.use_dynamic_base_id,
            "base_id_path": path(&self.hot_restart.base_id_path),
            "socket_path": self.hot_restart.socket_path,
            "socket_mode": self.hot_restart.socket_mode,
            "skip_hot_restart_on_no_parent": self.hot_restart.skip_on_no_parent,
            "skip_hot_restart_parent_stats": self.hot_restart.skip_parent_stats,
            "concurrency": workers,
            "config_path": path(&self.config_path),
            "config_yaml": text(&self.config_yaml),
            "allow_unknown_static_fields": self.allow_unknown_static_fields,
            "reject_unknown_dynamic_fields": self.reject_unknown_dynamic_fields,
            "ignore_unknown_dynamic_fields": self.ignore_unknown_dynamic_fields,
            "admin_address_path": path(&self.admin_address_path),
            "local_address_ip_version": match self.local_address_ip_version {
                IpVersion::V4 => "v4",
                IpVersion::V6 => "v6",
            },
            "log_level": self.log_level.name(),
            "component_log_level": self.component_log_level_text,
            "log_format": self.log_format,
            "log_format_escaped": self.log_format_escaped,
            "log_path": path(&self.log_path),
            "service_cluster": text(&self.service_cluster),
            "service_node": text(&self.service_node),
            "service_zone": text(&self.service_zone),
            "file_flush_interval": duration(self.file_flush_interval),
            "file_flush_min_size": self.file_flush_min_bytes / 1024,
            "drain_time": duration(self.drain_time),
            "drain_strategy": match self.drain_strategy {
                DrainStrategy::Gradual => "Gradual",
                DrainStrategy::Immediate => "Immediate",
            },
            "parent_shutdown_time": duration(self.parent_shutdown_time),
            "mode": match self.action {
                Action::Serve | Action::Demo | Action::Doctor(_) => "Serve",
                Action::Validate => "Validate",
            },
            "disable_hot_restart": self.hot_restart.disabled,
            "restart_epoch": self.hot_restart.epoch,
            "cpuset_threads": self.cpuset_threads,
            "stats_tag": tags,
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn options_are_shown_as_envoy_shows_them() {
        let line = ["ringway", "-c", "a.yaml", "--drain-time-s", "5", "--stats-tag", "zone:a"];
        let json = crate::cli::parse(line).unwrap().to_json(3);
        for (name, value) in [
            ("config_path", "a.yaml"),
            ("drain_time", "5s"),
            ("file_flush_interval", "10s"),
            ("log_level", "info"),
            ("mode", "Serve"),
            ("drain_strategy", "Gradual"),
            ("local_address_ip_version", "v4"),
        ] {
            assert_eq!(json[name], value, "{name}");
        }
        assert_eq!(json["concurrency"], 3);
        assert_eq!(json["stats_tag"][0], "zone:a");
    }
}
