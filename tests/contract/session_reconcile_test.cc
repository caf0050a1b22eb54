// Conflicts through a whole session: what a forwarded record, a refusal of the journal and a
// trimmed journal come to, what people see meanwhile, and that a process may die at any step.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "tests/contract/session_world.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using tests::Eventually;
using Node = tests::SessionNode;
using Server = tests::SessionServer;
using tests::Settled;

// Names, without the number of a conflict name, and contents. A name that is there twice shows.
std::multimap<std::string, std::string> Contents(Node& node) {
  std::multimap<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::directory_iterator(node.lower_path())) {
    const std::string name = entry.path().filename();
    contents.emplace(name.substr(0, name.find("-n")), node.Read(name));
  }
  return contents;
}

double Metric(Node& node, const std::string& name, const std::string& label,
              const std::string& value) {
  for (const auto& family : node.registry().Collect()) {
    if (family.name != name) continue;
    for (const auto& metric : family.metric) {
      for (const auto& pair : metric.label) {
        if (pair.name == label && pair.value == value) {
          return metric.counter.value + metric.gauge.value;
        }
      }
    }
  }
  return -1;
}

// Both have `file`; then A is cut off and both write on in it.
void WriteOnBothSides(Server& server, Node& a, Node& b) {
  ASSERT_EQ(b.Append("file", "1"), 0);
  ASSERT_TRUE(Settled(server, b));
  ASSERT_TRUE(Settled(server, a));
  server.SetReachable(1, false);
  ASSERT_TRUE(a.Await(Connection::Phase::kDisconnected));
  ASSERT_EQ(a.Append("file", "a"), 0);
  ASSERT_EQ(a.Append("new", "a"), 0);
  ASSERT_EQ(b.Append("file", "b"), 0);
  ASSERT_TRUE(Settled(server, b));
}

void ExpectBothKept(Server& server, Node& a, Node& b) {
  ASSERT_TRUE(Settled(server, a)) << a.session().status().error;
  ASSERT_TRUE(Settled(server, b)) << b.session().status().error;
  for (Node* node : {&a, &b}) {
    EXPECT_THAT(
        Contents(*node),
        UnorderedElementsAre(Pair("file", "1b"), Pair("file.conflict", "1a"), Pair("new", "a")));
  }
  // A node as before.
  ASSERT_EQ(a.Append("file", "+"), 0);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(Settled(server, b));
  EXPECT_EQ(b.Read("file"), "1b+");
}

TEST(SessionReconcileTest, AForwardedRecordMeetsAPendingOne) {
  Server server;
  Node b(server, 2), a(server, 1, {.source = &b});
  WriteOnBothSides(server, a, b);
  server.SetReachable(1, true);
  ExpectBothKept(server, a, b);
  EXPECT_EQ(a.session().status().conflicts, 1u);
  EXPECT_EQ(Metric(a, "intermezzo_conflicts_total", "kind", "update/update"), 1);
}

TEST(SessionReconcileTest, SaysWhyItWaits) {
  Server server;
  Node b(server, 2), a(server, 1, {.source = &b});
  WriteOnBothSides(server, a, b);
  b.SetServes(false);
  server.SetReachable(1, true);
  ASSERT_TRUE(Eventually([&] { return !a.session().status().error.ok(); }));
  EXPECT_THAT(std::string(a.session().status().error.message()), HasSubstr("no live replica"));
  EXPECT_EQ(a.session().status().phase, Connection::Phase::kReconnecting);
  // Also when it hears nothing of the server for longer than `disconnect_after`.
  EXPECT_FALSE(a.session().WaitFor(
      [](const auto& status) { return status.phase == Connection::Phase::kDisconnected; },
      absl::Seconds(1)));
  EXPECT_EQ(Metric(a, "intermezzo_replication_state", "state", "reconnecting"), 1);
  EXPECT_GT(a.replica().pending_records(), 0u);
  EXPECT_EQ(a.Read("file"), "1a");  // readable meanwhile
  // Nobody waits for it.
  ASSERT_EQ(b.Append("other", "b"), 0);
  EXPECT_EQ(a.session().status().phase, Connection::Phase::kReconnecting);
  b.SetServes(true);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(a.session().status().error.ok()) << a.session().status().error;
  EXPECT_EQ(b.Read("other"), "b");
}

TEST(SessionReconcileTest, TheJournalRefusesARecord) {
  Server server;
  Node b(server, 2), a(server, 1, {.source = &b});
  ASSERT_EQ(b.Append("file", "1"), 0);
  ASSERT_TRUE(Settled(server, b));
  ASSERT_TRUE(Settled(server, a));
  // A hears nothing of what B writes, and gets the token all the same.
  server.SetHidden(1, true);
  ASSERT_EQ(b.Append("file", "b"), 0);
  ASSERT_EQ(a.Append("file", "a"), 0);
  ASSERT_EQ(a.Append("new", "a"), 0);
  ASSERT_TRUE(Eventually([&] { return a.session().status().conflicts > 0; }));
  server.SetHidden(1, false);
  ExpectBothKept(server, a, b);
}

TEST(SessionReconcileTest, TheJournalDoesNotReachBackToTheCursor) {
  Server server;
  Node b(server, 2), a(server, 1, {.source = &b});
  WriteOnBothSides(server, a, b);
  server.TrimAll();
  server.SetReachable(1, true);
  ExpectBothKept(server, a, b);
}

TEST(SessionReconcileTest, NothingPendingAndTrimmed) {
  Server server;
  Node b(server, 2), a(server, 1, {.source = &b});
  ASSERT_EQ(b.Append("file", "1"), 0);
  ASSERT_TRUE(Settled(server, b));
  ASSERT_TRUE(Settled(server, a));
  server.SetReachable(1, false);
  ASSERT_TRUE(a.Await(Connection::Phase::kDisconnected));
  ASSERT_EQ(b.Append("file", "b"), 0);
  ASSERT_EQ(b.Append("new", "b"), 0);
  ASSERT_TRUE(Settled(server, b));
  server.TrimAll();
  server.SetReachable(1, true);
  ASSERT_TRUE(Settled(server, a));
  EXPECT_THAT(Contents(a), UnorderedElementsAre(Pair("file", "1b"), Pair("new", "b")));
}

TEST(SessionReconcileTest, NobodyToResolveStopsIt) {
  Server server;
  Node b(server, 2), a(server, 1);
  WriteOnBothSides(server, a, b);
  server.TrimAll();
  server.SetReachable(1, true);
  ASSERT_TRUE(a.Await(Connection::Phase::kFailed));
  EXPECT_THAT(std::string(a.session().status().error.message()), HasSubstr("the journal begins"));
  a.ExpectFailed();
}

// The process dies at each commit of the reconciliation, once each.
void DieAtEachStep(bool trimmed) {
  int step = 1;
  for (bool died = true; died && !::testing::Test::HasFailure(); ++step) {
    SCOPED_TRACE(absl::StrCat("step ", step));
    Server server;
    Node b(server, 2), a(server, 1, {.source = &b});
    WriteOnBothSides(server, a, b);
    if (trimmed) server.TrimAll();
    a.CrashIn(step);
    server.SetReachable(1, true);
    ASSERT_TRUE(Eventually([&] {
      return a.crashed() || (a.session().status().phase == Connection::Phase::kConnected &&
                             a.replica().pending_records() == 0);
    }));
    died = a.crashed();
    if (died) a.Restart();
    a.CrashIn(0);
    ExpectBothKept(server, a, b);
  }
  EXPECT_GT(step, 8) << "hardly a step: the test tests nothing";
}

TEST(SessionReconcileTest, DiesAtAnyStepOfAConflict) { DieAtEachStep(false); }
TEST(SessionReconcileTest, DiesAtAnyStepOfASnapshot) { DieAtEachStep(true); }

// ---- joining waits for the journal -------------------------------------------------------------

absl::Status MakeRecord(Replica& replica) {
  absl::MutexLock lock(&replica.update_lock());
  UniqueFd fd(openat(replica.lower().root_fd(), "joined", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
  return replica.Created(kRootObject, replica.lower().root_fd(), "joined").status();
}

TEST(SessionJoinTest, WaitsForTheConfirmation) {
  Server server;
  absl::Status waited = absl::UnknownError("not called");
  auto join = [&](JoinContext& context, Replica& replica) {
    if (auto head = context.AcquireToken(); !head.ok()) return head.status();
    if (absl::Status made = MakeRecord(replica); !made.ok()) return made;
    waited = context.WaitConfirmed(replica.last_origin_seq());
    EXPECT_EQ(server.head(), 1u);
    context.ReleaseToken();
    return absl::OkStatus();
  };
  Node a(server, 1, {.source = nullptr, .join = join});
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(waited.ok()) << waited;
}

TEST(SessionJoinTest, AStopEndsTheWait) {
  Server server;
  absl::Notification called;
  absl::Status waited;
  {
    auto join = [&](JoinContext& context, Replica&) {
      called.Notify();
      waited = context.WaitConfirmed(1);
      return waited;
    };
    Node a(server, 1, {.source = nullptr, .join = join});
    called.WaitForNotification();
  }
  EXPECT_TRUE(absl::IsCancelled(waited)) << waited;
}

}  // namespace
}  // namespace intermezzo::sidecar
