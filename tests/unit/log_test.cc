// The log: one JSON object a line, whatever the bytes.
#include "services/common/log/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

namespace intermezzo {
namespace {

using nlohmann::json;

// What `write` logged, parsed; fails where a line is not JSON.
template <typename F>
std::vector<json> Lines(F write) {
  ::testing::internal::CaptureStderr();
  write();
  std::istringstream text(::testing::internal::GetCapturedStderr());
  std::vector<json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST(LogTest, LineHasItsFields) {
  ASSERT_TRUE(log::Init("sidecar", "info").ok());
  const std::vector<json> lines = Lines([] {
    log::Info("moved", {{"collection", "www"}, {"seq", "12"}});
  });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["level"], "info");
  EXPECT_EQ(lines[0]["component"], "sidecar");
  EXPECT_EQ(lines[0]["message"], "moved");
  EXPECT_EQ(lines[0]["collection"], "www");
  EXPECT_EQ(lines[0]["seq"], "12");
  EXPECT_EQ(lines[0]["time"].get<std::string>().size(),
            std::string("2026-01-01T00:00:00.000000Z").size());
}

TEST(LogTest, AnyBytesStayOneLine) {
  ASSERT_TRUE(log::Init("a\"b", "info").ok());
  const std::vector<json> lines = Lines([] {
    log::Warning("quote \" newline \n brace {} percent %v\xff", {{"na\"me", "\x01\\\xc3"}});
  });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["message"], "quote \" newline \n brace {} percent %v\uFFFD");
  EXPECT_EQ(lines[0]["na\"me"], "\x01\\\uFFFD");
}

TEST(LogTest, LevelsCutOff) {
  const auto all = [] {
    log::Trace("t");
    log::Debug("d");
    log::Info("i");
    log::Warning("w");
    log::Error("e");
  };
  const std::pair<const char*, size_t> levels[] = {
      {"trace", 5}, {"debug", 4}, {"info", 3}, {"warning", 2}, {"error", 1}};
  for (const auto& [level, count] : levels) {
    ASSERT_TRUE(log::Init("x", level).ok());
    EXPECT_EQ(Lines(all).size(), count) << level;
  }
  const absl::Status status = log::Init("x", "loud");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(LogTest, ThreadsDoNotMixLines) {
  ASSERT_TRUE(log::Init("x", "info").ok());
  const std::vector<json> lines = Lines([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([] {
        for (int i = 0; i < 200; ++i) log::Info(std::string(300, 'x'));
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  EXPECT_EQ(lines.size(), 800u);
}

TEST(LogDeathTest, FatalSaysWhyAndAborts) {
  EXPECT_DEATH(log::Fatal("broken invariant", {{"seq", "3"}}),
               "\"level\":\"fatal\".*broken invariant.*\"seq\":\"3\"");
}

}  // namespace
}  // namespace intermezzo
