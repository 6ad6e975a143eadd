//! Hot restart: a new process takes the place of this one, and no client notices. Source: Envoy's "Hot restart".
//!
//! A process listens at a name made of base id and epoch. The process of the next epoch connects there, takes the listening
//! sockets (`super::sockets`) and that of the admin endpoint, serves, and then tells this one to accept no more and in the end
//! to go ([`Predecessor`] is what it sees of this one, [`Successor`] what this one sees of it, `wire` what they say).
//! Until it says so nothing changes here: one that fails to start, hangs or dies has changed nothing.
//!
//! Only processes of the same user are listened to. Everything is done by the control threads.
mod predecessor;
mod successor;
pub(crate) mod wire;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::{patience, seed};
use crate::base::clock;
use crate::base::rng::Rng;
use crate::cli::{Action, HotRestart, Options};
use crate::runtime::packet;
pub(super) use predecessor::{Following, Predecessor};
pub(super) use successor::{Event, Successor};

/// Random base ids that are tried.
const DYNAMIC_TRIES: usize = 100;
/// How long a process that is told to end by the next one lets requests run. Those without a request have a second.
pub(super) const TERMINATE_PATIENCE: Duration = Duration::from_secs(5);
/// How long, beyond that, a process whose workers have ended waits for the next one to take its last counts.
pub(super) const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);

/// This process's place in the chain.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) epoch: u32,
    pub(super) base_id: u32,
    /// When the first process of the chain began, seconds since 1970.
    pub(super) started_s: u64,
    /// How many processes the chain has had.
    pub(super) generation: u64,
    /// Where the next process connects.
    pub(super) listener: OwnedFd,
    /// Its file, removed with this.
    file: Option<PathBuf>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Gone already, or another's by now.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Takes the place that the command line asks for; `None`: no hot restart. A process that asks for none in particular, and
/// finds that another one has it, serves without: it cannot be replaced, and says so. (Envoy refuses to start.)
///
/// # Errors
/// Another process has the place that was asked for, in one line.
pub(super) fn claim(options: &Options) -> Result<Option<Place>, String> {
    let flags = &options.hot_restart;
    if flags.disabled || options.action != Action::Serve {
        return Ok(None);
    }
    let place = if flags.use_dynamic_base_id {
        let mut rng = Rng::from_seed(seed(usize::MAX - 2));
        // As Envoy, which needs the upper bits.
        let ids = (0..DYNAMIC_TRIES).map(|_| u32::try_from(rng.below(0x1000_0000)).unwrap_or_default());
        let found = ids.map(|id| take(flags, id)).find(Result::is_ok);
        found.unwrap_or_else(|| Err("hot restart: no free base id was found".to_owned()))
    } else {
        take(flags, flags.base_id)
    };
    let place = match place {
        Ok(place) => place,
        Err(reason) if !flags.demanded => {
            log::warn!("{reason}; serving without hot restart");
            return Ok(None);
        }
        Err(reason) => return Err(reason),
    };
    if let Some(path) = &flags.base_id_path
        && let Err(error) = std::fs::write(path, place.base_id.to_string())
    {
        log::error!("--base-id-path: cannot write {}: {error}", path.display());
    }
    Ok(Some(place))
}

fn take(flags: &HotRestart, base_id: u32) -> Result<Place, String> {
    let name = name(&flags.socket_path, base_id, flags.epoch);
    let file = (!name.starts_with('@')).then(|| PathBuf::from(&name));
    if let Some(file) = file.as_ref().filter(|file| packet::is_left_behind(file)) {
        let _ = std::fs::remove_file(file);
    }
    let listener = packet::listen(&name).map_err(|error| refusal(&name, base_id, flags.epoch, &error))?;
    let place = Place { epoch: flags.epoch, base_id, started_s: now_s(), generation: 1, listener, file };
    if let Some(file) = &place.file {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(flags.socket_mode);
        std::fs::set_permissions(file, mode)
            .map_err(|error| format!("hot restart: --socket-mode of {}: {error}", file.display()))?;
    }
    Ok(place)
}

fn refusal(name: &str, base_id: u32, epoch: u32, error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return format!("hot restart: cannot listen at {name}: {error}");
    }
    let holder = packet::connect(name).and_then(|socket| {
        use std::os::fd::AsFd;
        packet::peer(socket.as_fd())
    });
    let holder =
        holder.map_or_else(|_| "another process".to_owned(), |peer| format!("process {}", peer.process));
    format!(
        "hot restart: base id {base_id}, epoch {epoch} is in use by {holder}: to replace it give --restart-epoch {}; \
         to run beside it another --base-id, --use-dynamic-base-id or --disable-hot-restart",
        epoch.saturating_add(1)
    )
}

impl Place {
    /// Meets the process that this one is to replace; `None`: there is none, or it ends anyway.
    ///
    /// # Errors
    /// There should be one and is not, or it cannot be replaced, in one line.
    pub(super) fn meet(&mut self, flags: &HotRestart) -> Result<Option<Predecessor>, String> {
        let Some(before) = self.epoch.checked_sub(1) else { return Ok(None) };
        let name = name(&flags.socket_path, self.base_id, before);
        let connect = || packet::connect(&name);
        let found = if flags.skip_on_no_parent { connect() } else { patience::while_nobody_listens(connect) };
        let socket = match found {
            Ok(socket) => socket,
            Err(error) if flags.skip_on_no_parent && patience::is_nobody(&error) => {
                log::warn!("hot restart: there is no process of epoch {before}: starting afresh");
                return Ok(None);
            }
            Err(error) if patience::is_nobody(&error) => {
                return Err(format!(
                    "hot restart: no process of base id {} and epoch {before} is there ({name}): start the first one \
                     with --restart-epoch 0, or give --skip-hot-restart-on-no-parent",
                    self.base_id
                ));
            }
            Err(error) => return Err(format!("hot restart: {name}: {error}")),
        };
        let Some((predecessor, started_s, generation)) = Predecessor::greet(socket, self.epoch)? else {
            return Ok(None);
        };
        self.started_s = started_s;
        self.generation = generation.saturating_add(1);
        Ok(Some(predecessor))
    }
}

fn name(path: &str, base_id: u32, epoch: u32) -> String {
    format!("{path}_{base_id}_{epoch}")
}

fn now_s() -> u64 {
    clock::wall_ns() / 1_000_000_000
}

/// Since the first process of the chain began.
pub(super) fn age_of_chain(started_s: u64) -> Duration {
    Duration::from_secs(now_s().saturating_sub(started_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(epoch: u32, path: &str) -> Options {
        let epoch = epoch.to_string();
        let line = ["ringway", "-c", "a", "--restart-epoch", &epoch, "--socket-path", path, "--base-id", "7"];
        crate::cli::parse(line).unwrap()
    }

    #[test]
    fn place_is_had_once_and_left_free() {
        let path = format!("@ringway-place-{}", std::process::id());
        let place = claim(&options(0, &path)).unwrap().unwrap();
        let refused = claim(&options(0, &path)).unwrap_err();
        let process = format!("in use by process {}:", std::process::id());
        assert!(refused.contains(&process) && refused.contains("--restart-epoch 1;"), "{refused}");
        let mut unasked = options(0, &path);
        unasked.hot_restart.demanded = false;
        assert!(claim(&unasked).unwrap().is_none(), "who asked for no place serves without one");
        let next = claim(&options(1, &path)).unwrap().unwrap();
        assert_eq!((place.base_id, next.epoch), (7, 1));
        drop((place, next));
        assert!(claim(&options(0, &path)).unwrap().is_some());
    }

    #[test]
    fn file_left_behind_is_no_obstacle_and_has_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("ringway-place-{}", std::process::id()));
        let path = path.to_str().unwrap();
        let file = format!("{path}_7_0");
        // The listener of a process that was killed.
        drop(packet::listen(&file).unwrap());
        let place = claim(&options(0, path)).unwrap().unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(claim(&options(0, path)).unwrap_err().contains("in use"));
        drop(place);
        assert!(!std::fs::exists(&file).unwrap());
    }

    #[test]
    fn free_base_id_is_found_and_written() {
        let file = std::env::temp_dir().join(format!("ringway-base-id-{}", std::process::id()));
        let (path, file) = (format!("@ringway-dynamic-{}", std::process::id()), file.to_str().unwrap());
        let line =
            ["ringway", "-c", "a", "--use-dynamic-base-id", "--base-id-path", file, "--socket-path", &path];
        let options = crate::cli::parse(line).unwrap();
        let (one, other) = (claim(&options).unwrap().unwrap(), claim(&options).unwrap().unwrap());
        assert_ne!(one.base_id, other.base_id);
        assert_eq!(std::fs::read_to_string(file).unwrap(), other.base_id.to_string());
        std::fs::remove_file(file).unwrap();
    }
}
