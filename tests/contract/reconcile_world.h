// Two nodes and a journal that checks versions as the server's does, without network: A goes away,
// both write, A comes back through KeepBoth.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "services/journal-service/memory/memory_journal.h"
#include "services/sidecar/reconcile/keep_both.h"
#include "services/sidecar/reconcile/server_state.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_node.h"

namespace intermezzo::tests {

class ReconcileWorld {
 public:
  ReconcileWorld();

  TestNode& a() { return a_; }
  TestNode& b() { return b_; }

  // What the node made goes to the journal, and comes back to it.
  absl::Status Push(TestNode& node);
  // What the journal has is applied; a conflict on A is resolved.
  absl::Status Feed(TestNode& node);
  // So many of the node's records go to the journal, and nobody hears of it.
  absl::Status Send(TestNode& node, size_t records);
  // The journal no longer reaches back to A's cursor.
  absl::Status ReplaceHistory();
  // Both have everything; then A goes on alone (epoch 0).
  absl::Status CutOff();
  // A gets what it missed and sends what it made; B gets that.
  absl::Status Reconnect();
  // What a restart does.
  absl::Status Resume();

  // Called when the source has sent its table and no content yet.
  std::function<void()>& after_table() { return after_table_; }
  // The source fails so often before it works.
  int& failures() { return failures_; }
  // Kinds of the conflicts so far.
  std::vector<std::string>& conflicts() { return conflicts_; }
  sidecar::ConflictResolver& resolver() { return resolver_; }

 private:
  std::unique_ptr<sidecar::ServerState> MakeState();
  absl::Status Append(TestNode& node, std::vector<record::v1::Entry> entries);

  const TempDir dir_;
  journal::MemoryJournal journal_;
  TestNode a_{3};
  TestNode b_{4};
  std::function<void()> after_table_;
  int failures_ = 0;
  std::vector<std::string> conflicts_;
  sidecar::KeepBoth resolver_;
};

}  // namespace intermezzo::tests
