// Configuration: every mistake is named by file, line and field, and changes nothing.
#include "services/common/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "intermezzo/config/v1/config.pb.h"
#include "tests/support/temp_dir.h"

namespace intermezzo {
namespace {

using config::v1::SidecarConfig;
using config::v1::TokenServiceConfig;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class ConfigTest : public ::testing::Test {
 protected:
  absl::Status Load(const std::string& yaml, google::protobuf::Message& config) {
    std::ofstream(path_) << yaml;
    return LoadConfig(path_, config);
  }
  // The message of the refusal; also checks code and that `config` is as before.
  std::string Refusal(const std::string& yaml) {
    SidecarConfig config;
    config.set_node("before");
    const absl::Status status = Load(yaml, config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << yaml;
    SidecarConfig before;
    before.set_node("before");
    EXPECT_EQ(config.SerializeAsString(), before.SerializeAsString()) << yaml;
    return std::string(status.message());
  }

  const tests::TempDir dir_;
  const std::string path_ = dir_.path() + "/c.yaml";
};

TEST_F(ConfigTest, EveryKindOfField) {
  SidecarConfig config;
  ASSERT_TRUE(Load("runner:\n"
                   "  listen: 127.0.0.1:7000\n"
                   "  insecure: true\n"
                   "  drain_timeout: 1m30s\n"
                   "node: web-1\n"
                   "answer_opens: false\n"
                   "token_wait: 50ms\n"
                   "disconnect_after: 10s\n"
                   "fuse_threads: 4\n",
                   config)
                  .ok());
  EXPECT_EQ(config.runner().listen(), "127.0.0.1:7000");
  EXPECT_TRUE(config.runner().insecure());
  EXPECT_EQ(FromProto(config.runner().drain_timeout()), absl::Seconds(90));
  EXPECT_EQ(config.node(), "web-1");
  EXPECT_EQ(FromProto(config.token_wait()), absl::Milliseconds(50));
  EXPECT_EQ(FromProto(config.disconnect_after()), absl::Seconds(10));
  EXPECT_EQ(config.fuse_threads(), 4u);
}

TEST_F(ConfigTest, EmptyFileIsAllDefaults) {
  SidecarConfig config;
  EXPECT_TRUE(Load("", config).ok());
  EXPECT_TRUE(Load("# nothing\n", config).ok());
  EXPECT_TRUE(Load("---\n", config).ok());
}

TEST_F(ConfigTest, LargeNumbersAreExact) {
  config::v1::ForwarderServiceConfig config;
  ASSERT_TRUE(Load("window_bytes: 18446744073709551615\n", config).ok());
  EXPECT_EQ(config.window_bytes(), 18446744073709551615u);
}

TEST_F(ConfigTest, UnknownFieldIsNamedWithItsLine) {
  EXPECT_EQ(Refusal("node: a\nrunner:\n  listn: 127.0.0.1:0\n"),
            path_ + ":3: runner.listn: unknown field");
  EXPECT_EQ(Refusal("nodes: a\n"), path_ + ":1: nodes: unknown field");
}

TEST_F(ConfigTest, WrongTypesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"node: a\nfuse_threads: two\n", ":2: fuse_threads: expected a whole number from 0 to "},
      {"fuse_threads: -1\n", ":1: fuse_threads: expected a whole number"},
      {"fuse_threads: 4294967296\n", ":1: fuse_threads: expected a whole number"},
      {"fuse_threads: 1.5\n", ":1: fuse_threads: expected a whole number"},
      {"fuse_threads: \"2\"\n", ":1: fuse_threads: expected a whole number"},
      {"fuse_threads: [2]\n", ":1: fuse_threads: expected a single value"},
      {"answer_opens: 1\n", ":1: answer_opens: expected true or false"},
      {"answer_opens: \"true\"\n", ":1: answer_opens: expected true or false"},
      {"node: [a]\n", ":1: node: expected a single value"},
      {"node: {a: b}\n", ":1: node: expected a single value"},
      {"node:\n", ":1: node: has no value"},
      {"runner: 3\n", ":1: runner: expected fields (a mapping)"},
      {"runner:\n  - listen\n", ":2: runner: expected fields (a mapping)"},
      {"token_wait: 10\n", ":1: token_wait: expected a duration such as 10s"},
      {"token_wait: -10s\n", ":1: token_wait: expected a duration"},
      {"token_wait: inf\n", ":1: token_wait: expected a duration"},
      {"token_wait: {seconds: 1}\n", ":1: token_wait: expected a duration"},
      {"- node\n", ":1: the file: expected fields (a mapping)"},
      {"node: a\nnode: b\n", ":2: node: is given twice"},
      {"node: a\n---\nnode: b\n", "holds more than one YAML document"},
      {"node: [a\n", "not valid YAML"},
      {"node: a: b\n", ":1: not valid YAML"},
      {"node: *nobody\n", ":1: not valid YAML"},
      {"node: \xff\xfe\xff\n", path_.c_str()},
  };
  for (const auto& [yaml, message] : cases) {
    EXPECT_THAT(Refusal(yaml), HasSubstr(message)) << yaml;
  }
}

TEST_F(ConfigTest, MissingFileAndDirectory) {
  SidecarConfig config;
  absl::Status status = LoadConfig(dir_.path() + "/none.yaml", config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), EndsWith("No such file or directory"));
  status = LoadConfig(dir_.path(), config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), EndsWith("Is a directory"));
}

TEST_F(ConfigTest, HugeFileIsRefused) {
  EXPECT_THAT(Refusal("node: a\n#" + std::string(2'000'000, 'x')), HasSubstr("larger than 1 MiB"));
}

TEST_F(ConfigTest, Durations) {
  TokenServiceConfig config;
  ASSERT_TRUE(Load("lease: 1.5s\n", config).ok());
  EXPECT_EQ(DurationOr(config.has_lease(), config.lease(), absl::Seconds(10)),
            absl::Milliseconds(1500));
  EXPECT_EQ(DurationOr(config.has_minimum_hold(), config.minimum_hold(), absl::Milliseconds(50)),
            absl::Milliseconds(50));
  ASSERT_TRUE(Load("lease: 0s\n", config).ok());
  EXPECT_EQ(DurationOr(config.has_lease(), config.lease(), absl::Seconds(10)),
            absl::ZeroDuration());
  for (absl::Duration duration :
       {absl::Nanoseconds(1), absl::Hours(1000), absl::ZeroDuration(), -absl::Milliseconds(1500)}) {
    EXPECT_EQ(FromProto(ToProto(duration)), duration);
  }
}

TEST(RequireFieldTest, NamesTheField) {
  EXPECT_TRUE(RequireField("x", "data_dir").ok());
  const absl::Status status = RequireField("", "data_dir");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "data_dir: is required, and not set");
}

}  // namespace
}  // namespace intermezzo
