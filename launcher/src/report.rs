//! The launcher's own log as JSON: `ts`, `level`, `msg`, `caller`, and the fields of the event.

use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::explain::sentence;

/// One JSON object a line.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = Map::new();
        line.insert(
            "ts".to_owned(),
            humantime::format_rfc3339_micros(SystemTime::now()).to_string().into(),
        );
        line.insert("level".to_owned(), meta.level().as_str().to_lowercase().into());
        line.insert("msg".to_owned(), fields.message.into());
        let place = meta.file().and_then(|file| file.rsplit('/').next()).map(|file| {
            let number = meta.line().unwrap_or(0);
            format!("{file}:{number}")
        });
        // Libraries that use the `log` crate have no place of their own, but say who they are.
        line.insert("caller".to_owned(), place.unwrap_or(fields.target).into());
        line.append(&mut fields.others);
        writeln!(writer, "{}", Value::Object(line))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    target: String,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else if field.name() == "log.target" {
            value.as_str().unwrap_or_default().clone_into(&mut self.target);
        } else if !field.name().starts_with("log.") {
            self.others.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, sentence(value).into());
    }
}
