// The runner, as a process: what an operator, a probe and a signal see of it.
#include "services/common/runner/runner.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "services/common/rpc/channel.h"
#include "tests/support/child_process.h"
#include "tests/support/cut_line.h"
#include "tests/support/eventually.h"
#include "tests/support/temp_dir.h"

namespace intermezzo {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using tests::ChildProcess;
using tests::Eventually;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The child of runner_child.cc with a configuration of its own.
class RunnerTest : public ::testing::Test {
 protected:
  RunnerTest() {
    mkdir(data_.c_str(), 0700);
    runner_ = absl::StrCat("  insecure: true\n  address_file: ", address_file_, "\n");
  }

  // Behaviour that the child has by the name of its data_dir.
  void Behave(const std::string& how) {
    data_ = absl::StrCat(dir_.path(), "/", how);
    mkdir(data_.c_str(), 0700);
  }

  std::unique_ptr<ChildProcess> Start(std::vector<std::string> flags = {}) {
    std::ofstream(config_) << "runner:\n" << runner_ << "data_dir: " << data_ << "\n" << extra_;
    std::vector<std::string> arguments = {RUNNER_CHILD, "--config", config_};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return std::make_unique<ChildProcess>(arguments, output_);
  }

  int RunToEnd(std::vector<std::string> flags = {}) { return Start(std::move(flags))->ExitCode(); }

  // What the address file says, once it is there; empty where the child ends before.
  std::string Address(ChildProcess& child, const std::string& which) {
    Eventually([&] { return access(address_file_.c_str(), F_OK) == 0 || child.Ended(); });
    std::map<std::string, std::string> addresses;
    for (absl::string_view line :
         absl::StrSplit(ReadFile(address_file_), '\n', absl::SkipEmpty())) {
      addresses.insert(absl::StrSplit(line, absl::MaxSplits(": ", 1)));
    }
    return addresses[which];
  }

  std::vector<std::string> Events() {
    return absl::StrSplit(ReadFile(data_ + "/events"), '\n', absl::SkipEmpty());
  }

  std::string Output() { return ReadFile(output_); }

  const tests::TempDir dir_;
  const std::string config_ = dir_.path() + "/config.yaml";
  const std::string output_ = dir_.path() + "/output";
  const std::string address_file_ = dir_.path() + "/address";
  std::string data_ = dir_.path() + "/data";
  std::string runner_;
  std::string extra_;
};

grpc::Status Check(Health::Stub& health, const std::string& service,
                   HealthCheckResponse::ServingStatus* status) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const grpc::Status result = health.Check(&context, request, &response);
  *status = response.status();
  return result;
}

TEST_F(RunnerTest, HealthPerServiceAndUnknown) {
  auto child = Start();
  const std::string address = Address(*child, "grpc");
  ASSERT_THAT(address, StartsWith("127.0.0.1:")) << Output();
  const auto health = Health::NewStub(MakeChannel(address));
  HealthCheckResponse::ServingStatus status;
  for (const char* service :
       {"", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}) {
    // The file is written just before the state changes.
    EXPECT_TRUE(Eventually([&] {
      return Check(*health, service, &status).ok() && status == HealthCheckResponse::SERVING;
    })) << service;
  }
  EXPECT_EQ(Check(*health, "no.such.Service", &status).error_code(), grpc::StatusCode::NOT_FOUND);

  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("no.such.Service");
  const auto watch = health->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  context.TryCancel();
  EXPECT_FALSE(watch->Read(&response));
  watch->Finish();
}

TEST_F(RunnerTest, DrainsInOrderOnSigterm) {
  Behave("drain-waits");
  const std::string go_on = data_ + "/go-on";
  ASSERT_EQ(mkfifo(go_on.c_str(), 0600), 0);
  runner_ += "  drain_timeout: 7s\n";
  auto child = Start();
  const std::string address = Address(*child, "grpc");
  const auto health = Health::NewStub(MakeChannel(address));

  grpc::ClientContext context;
  const auto watch = health->Watch(&context, HealthCheckRequest());
  HealthCheckResponse response;
  do {
    ASSERT_TRUE(watch->Read(&response)) << Output();
  } while (response.status() != HealthCheckResponse::SERVING);

  child->Signal(SIGTERM);
  // NOT_SERVING comes first, while the application drains and the listener still answers.
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  ASSERT_TRUE(Eventually([&] { return Events().size() == 2; }));
  HealthCheckResponse::ServingStatus status;
  EXPECT_TRUE(Check(*health, "", &status).ok());
  EXPECT_EQ(status, HealthCheckResponse::NOT_SERVING);

  std::ofstream(go_on) << "x";
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(child->ExitCode(), 0) << Output();
  EXPECT_THAT(Events(), ElementsAre("start " + address, "drain 7s", "drained", "destroyed"));
  EXPECT_NE(access(address_file_.c_str(), F_OK), 0) << "the address file goes with the process";
}

// Established TCP connections of this machine whose local end is the address.
int ConnectionsOf(const std::string& address) {
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  int count = 0;
  for (const char* name : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream table(name);
    std::string line;
    while (std::getline(table, line)) {
      std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
      if (fields.size() < 4 || fields[3] != "01") continue;
      const std::vector<std::string> local = absl::StrSplit(fields[1], ':');
      if (local.size() == 2 && std::stoi(local[1], nullptr, 16) == port) ++count;
    }
  }
  return count;
}

// With the times that every process has: it takes their fifteen seconds.
TEST_F(RunnerTest, APeerThatVanishesWithoutAWordIsNoticedByBothSides) {
  auto child = Start();
  const std::string address = Address(*child, "grpc");
  ASSERT_NE(address, "") << Output();
  tests::CutLine line(CUT_PROXY, address);
  const auto health = Health::NewStub(MakeChannel(line.address()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
  const auto watch = health->Watch(&context, HealthCheckRequest());
  HealthCheckResponse response;
  do {
    ASSERT_TRUE(watch->Read(&response)) << Output();
  } while (response.status() != HealthCheckResponse::SERVING);
  ASSERT_EQ(ConnectionsOf(address), 1);

  line.Cut();
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Eventually([&] { return ConnectionsOf(address) == 0; }, absl::Minutes(2)))
      << "the server still keeps the connection";
}

TEST_F(RunnerTest, SecondSignalEndsAHangingDrain) {
  Behave("drain-waits");
  ASSERT_EQ(mkfifo((data_ + "/go-on").c_str(), 0600), 0);
  auto child = Start();
  ASSERT_NE(Address(*child, "grpc"), "");
  child->Signal(SIGINT);
  ASSERT_TRUE(Eventually([&] { return Events().size() == 2; }));
  child->Signal(SIGTERM);
  EXPECT_EQ(child->ExitCode(), 1) << Output();
  EXPECT_THAT(Output(), HasSubstr("second signal"));
}

TEST_F(RunnerTest, ConfigurationMistakesEndWithTwoAndNameTheField) {
  const std::string insecure = "  insecure: true\n";
  const std::pair<std::string, const char*> cases[] = {
      {insecure + "  listn: 127.0.0.1:0\n", "runner.listn: unknown field"},
      {"  insecure: false\n", "runner.insecure: must be true"},
      {insecure + "  listen: 0.0.0.0:0\n", "runner.listen: 0.0.0.0 is not a loopback address"},
      {insecure + "  listen: \"[::]:0\"\n", "runner.listen: :: is not a loopback address"},
      {insecure + "  listen: 10.0.0.1:0\n", "is not a loopback address"},
      {insecure + "  listen: nonsense\n", "runner.listen: "},
      {insecure + "  metrics_listen: 1.2.3.4\n", "runner.metrics_listen: "},
      {insecure + "  log_level: loud\n", "runner.log_level: "},
      {insecure + "  drain_timeout: 0s\n", "runner.drain_timeout: "},
  };
  for (const auto& [runner, message] : cases) {
    runner_ = runner;
    EXPECT_EQ(RunToEnd(), 2) << message;
    EXPECT_THAT(Output(), HasSubstr(message));
    unlink(output_.c_str());
  }
}

TEST_F(RunnerTest, ExitCodesOfFailures) {
  Behave("build-fails");
  EXPECT_EQ(RunToEnd(), 1);
  EXPECT_THAT(Output(), HasSubstr("bad disk"));
  Behave("start-fails");
  EXPECT_EQ(RunToEnd(), 1);
  EXPECT_THAT(Output(), HasSubstr("no peer"));
  EXPECT_THAT(Events(), ElementsAre(StartsWith("start "), "drain 10s", "drained", "destroyed"));
  EXPECT_NE(access(address_file_.c_str(), F_OK), 0);
}

TEST_F(RunnerTest, AddressFileThatCannotBeWrittenEndsIt) {
  runner_ = "  insecure: true\n  address_file: /no/such/directory/file\n";
  EXPECT_EQ(RunToEnd(), 1);
  EXPECT_THAT(Output(), HasSubstr("runner.address_file: /no/such/directory/file"));
}

TEST_F(RunnerTest, PortInUseEndsTheSecond) {
  auto child = Start();
  const std::string grpc_address = Address(*child, "grpc");
  const std::string metrics_address = Address(*child, "metrics");
  ASSERT_NE(grpc_address, "");
  runner_ = absl::StrCat("  insecure: true\n  listen: ", grpc_address, "\n");
  EXPECT_EQ(RunToEnd(), 1);
  EXPECT_THAT(Output(), HasSubstr("cannot listen for gRPC on " + grpc_address));
  runner_ = absl::StrCat("  insecure: true\n  metrics_listen: ", metrics_address, "\n");
  EXPECT_EQ(RunToEnd(), 1);
  EXPECT_THAT(Output(), HasSubstr("cannot listen for metrics on " + metrics_address));
}

TEST_F(RunnerTest, Flags) {
  EXPECT_EQ(RunToEnd({"--version"}), 0);
  EXPECT_THAT(Output(), HasSubstr("tiny 0.1.0"));
  EXPECT_EQ(RunToEnd({"--help"}), 0);
  EXPECT_THAT(Output(), HasSubstr("--check-config"));
  EXPECT_EQ(RunToEnd({"--no-such-flag"}), 2);
  EXPECT_EQ(ChildProcess({RUNNER_CHILD}, output_).ExitCode(), 2);
  EXPECT_EQ(ChildProcess({RUNNER_CHILD, "--config", "/no/such"}, output_).ExitCode(), 2);
}

TEST_F(RunnerTest, CheckConfigStartsNothing) {
  EXPECT_EQ(RunToEnd({"--check-config"}), 0);
  EXPECT_THAT(Output(), HasSubstr(config_ + ": good"));
  EXPECT_THAT(Events(), ElementsAre());
  data_ = "\"\"";
  EXPECT_EQ(RunToEnd({"--check-config"}), 2);
  EXPECT_THAT(Output(), HasSubstr("data_dir: is required"));
}

}  // namespace
}  // namespace intermezzo
