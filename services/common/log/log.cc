#include "services/common/log/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/common/types/view.h"

namespace intermezzo::log {
namespace {

using Level = spdlog::level::level_enum;

// Any bytes as a JSON string; what is not UTF-8 becomes U+FFFD.
std::string Quote(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Written by Init before other threads start, then only read.
struct State {
  State() : logger("", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    logger.set_formatter(std::make_unique<spdlog::pattern_formatter>(
        "{\"time\":\"%Y-%m-%dT%H:%M:%S.%fZ\",%v}", spdlog::pattern_time_type::utc));
    logger.set_level(Level::info);
  }
  spdlog::logger logger;
  std::string component = "\"\"";  // quoted
};

// Never destroyed: threads may log until the process ends.
State& Global() {
  static State* const state = new State;
  return *state;
}

void Write(Level level, const char* level_name, std::string_view message,
           std::initializer_list<Field> fields) {
  State& state = Global();
  if (!state.logger.should_log(level)) return;
  std::string body = absl::StrCat("\"level\":\"", level_name, "\",\"component\":", state.component,
                                  ",\"message\":", Quote(message));
  for (const auto& [name, value] : fields) {
    absl::StrAppend(&body, ",", Quote(name), ":", Quote(value));
  }
  state.logger.log(level, spdlog::string_view_t(body.data(), body.size()));
}

}  // namespace

absl::Status Init(std::string_view component, std::string_view level) {
  static constexpr std::pair<std::string_view, Level> kLevels[] = {{"trace", Level::trace},
                                                                   {"debug", Level::debug},
                                                                   {"info", Level::info},
                                                                   {"warning", Level::warn},
                                                                   {"error", Level::err}};
  for (const auto& [name, value] : kLevels) {
    if (name != level) continue;
    Global().component = Quote(component);
    Global().logger.set_level(value);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "log level \"", View(level), "\" is not one of trace, debug, info, warning, error"));
}

void Error(std::string_view message, std::initializer_list<Field> fields) {
  Write(Level::err, "error", message, fields);
}
void Warning(std::string_view message, std::initializer_list<Field> fields) {
  Write(Level::warn, "warning", message, fields);
}
void Info(std::string_view message, std::initializer_list<Field> fields) {
  Write(Level::info, "info", message, fields);
}
void Debug(std::string_view message, std::initializer_list<Field> fields) {
  Write(Level::debug, "debug", message, fields);
}
void Trace(std::string_view message, std::initializer_list<Field> fields) {
  Write(Level::trace, "trace", message, fields);
}

void Fatal(std::string_view message, std::initializer_list<Field> fields) {
  Write(Level::critical, "fatal", message, fields);
  std::abort();
}

}  // namespace intermezzo::log
