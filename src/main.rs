//! The binary: arguments, allocator, logger, then `server`.

use std::process::ExitCode;
use std::time::Duration;

use ringway::runtime::allocator::Allocator;
use ringway::telemetry::log::Logger;
use ringway::{cli, server};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let options = match cli::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            let tell = if error.exit_code == cli::EXIT_OK { server::say } else { server::complain };
            tell(&error.text);
            return ExitCode::from(error.exit_code);
        }
    };
    let logger = match Logger::new(options.log_options()) {
        Ok(logger) => logger.install(),
        Err(error) => {
            server::complain(&format!("ringway: the log cannot be opened: {error}\n"));
            return ExitCode::from(cli::EXIT_FAILURE);
        }
    };
    let code = server::run(&options, logger);
    logger.drain(Duration::from_secs(1));
    ExitCode::from(code)
}
