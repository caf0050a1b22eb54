// Goal: every line of the table in services/adr/0003-keep-both.md, on a real object table.
#include "services/sidecar/reconcile/replay_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>

#include "services/common/record/codec.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::OBJECT_KIND_DIRECTORY;
using record::v1::OBJECT_KIND_FILE;
using record::v1::Record;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr uint64_t kRoot = 1;
constexpr uint64_t kBase = 7;      // a version that both sides knew
constexpr uint64_t kServer = 8;    // made on the server meanwhile
constexpr uint64_t kFirst = 1000;  // the replay's versions start here
const Ordinal kMe{5};

class ReplayRulesTest : public testing::Test {
 protected:
  ReplayRulesTest() : db_(*NodeDb::Open(dir_.path() + "/db")) {
    PutDirectory(kRoot, 0, "", kBase);
    ReplayRules::Context context = {
        .db = db_.get(),
        .node = *NodeName::Parse("n1"),
        .ordinal = kMe,
        .first_replayed = kFirst,
        .former = [this](ObjectId id) -> std::optional<storage::v1::ObjectRow> {
          auto it = former_.find(id.value());
          if (it == former_.end()) return std::nullopt;
          return it->second;
        },
        .has_local_version = [this](ObjectId id) { return local_versions_.contains(id.value()); },
        .attributes = [this](ObjectId) { return attributes_; },
        .new_object = [this] { return ObjectId(kMe, ++next_object_); },
    };
    rules_ = std::make_unique<ReplayRules>(std::move(context), ReplayMaps());
  }

  void Put(uint64_t id, record::v1::ObjectKind kind, uint64_t parent, const std::string& name,
           uint64_t version) {
    storage::v1::ObjectRow row;
    row.set_kind(kind);
    row.set_inode(10'000 + id);
    row.set_data_version(version);
    row.set_attributes_version(version);
    auto batch = db_->NewBatch();
    if (parent != 0) {
      row.add_links()->set_parent(parent);
      row.mutable_links(0)->set_name(name);
      storage::v1::EntryRow entry;
      entry.set_object(id);
      entry.set_version(version);
      batch->PutEntry(ObjectId(parent), name, entry);
    }
    batch->PutObject(ObjectId(id), row);
    ASSERT_TRUE(db_->Commit(std::move(batch), false).ok());
  }
  void PutFile(uint64_t id, uint64_t parent, const std::string& name, uint64_t version) {
    Put(id, OBJECT_KIND_FILE, parent, name, version);
  }
  void PutDirectory(uint64_t id, uint64_t parent, const std::string& name, uint64_t version) {
    Put(id, OBJECT_KIND_DIRECTORY, parent, name, version);
  }
  // The node knew the object under this name before the reset.
  void Knew(uint64_t id, record::v1::ObjectKind kind, uint64_t parent, const std::string& name) {
    former_[id].set_kind(kind);
    former_[id].add_links()->set_parent(parent);
    former_[id].mutable_links(0)->set_name(name);
  }

  // Fills in what a record of the offline time states: versions that both sides knew.
  static Record Stated(Record record) {
    record.set_version(Version(kMe, 3).value());
    for (record::v1::Touch touch : RequiredTouches(record)) {
      touch.set_against(kBase);
      *record.add_touches() = touch;
    }
    return record;
  }
  static Record CreateOf(uint64_t id, uint64_t parent, const std::string& name,
                         record::v1::ObjectKind kind = OBJECT_KIND_FILE) {
    Record record;
    auto& op = *record.mutable_create();
    op.set_object(id);
    op.set_parent(parent);
    op.set_name(name);
    op.set_kind(kind);
    return Stated(record);
  }
  static Record WriteOf(uint64_t id) {
    Record record;
    record.mutable_write()->set_object(id);
    return Stated(record);
  }
  static Record ChmodOf(uint64_t id, uint32_t mode) {
    Record record;
    record.mutable_set_attributes()->set_object(id);
    record.mutable_set_attributes()->mutable_attributes()->set_mode(mode);
    return Stated(record);
  }
  static Record RemoveOf(uint64_t id, uint64_t parent, const std::string& name,
                         bool directory = false) {
    Record record;
    auto& op = *record.mutable_remove();
    op.set_object(id);
    op.set_parent(parent);
    op.set_name(name);
    op.set_last(true);
    op.set_directory(directory);
    return Stated(record);
  }
  static Record RenameOf(uint64_t id, uint64_t from, const std::string& from_name, uint64_t to,
                         const std::string& to_name, uint64_t replaced = 0) {
    Record record;
    auto& op = *record.mutable_rename();
    op.set_object(id);
    op.set_from_parent(from);
    op.set_from_name(from_name);
    op.set_to_parent(to);
    op.set_to_name(to_name);
    op.set_replaced(replaced);
    op.set_replaced_last(replaced != 0);
    return Stated(record);
  }

  tests::TempDir dir_;
  std::unique_ptr<NodeDb> db_;
  std::map<uint64_t, storage::v1::ObjectRow> former_;
  std::set<uint64_t> local_versions_;
  record::v1::Attributes attributes_;
  uint64_t next_object_ = 0;
  std::unique_ptr<ReplayRules> rules_;
};

TEST_F(ReplayRulesTest, WhatNobodyElseTouchedIsDoneAgain) {
  PutFile(20, kRoot, "f", kBase);
  for (const Record& record : {WriteOf(20), ChmodOf(20, 0600), RemoveOf(20, kRoot, "f"),
                               RenameOf(20, kRoot, "f", kRoot, "g"), CreateOf(21, kRoot, "h")}) {
    const ReplayDecision decision = rules_->Decide(record);
    EXPECT_EQ(decision.conflict, "");
    ASSERT_THAT(decision.steps, SizeIs(1));
    EXPECT_EQ(decision.steps[0].record.op_case(), record.op_case());
  }
}

TEST_F(ReplayRulesTest, AnAspectThatTheReplayMadeIsOurs) {
  PutFile(20, kRoot, "f", Version(kMe, kFirst + 4).value());
  const ReplayDecision decision = rules_->Decide(WriteOf(20));
  EXPECT_EQ(decision.conflict, "");
  EXPECT_THAT(decision.steps, SizeIs(1));
}

TEST_F(ReplayRulesTest, UpdateAgainstUpdateKeepsTheLocalVersionBesideIt) {
  PutFile(20, kRoot, "f", kServer);
  Knew(20, OBJECT_KIND_FILE, kRoot, "f");
  local_versions_ = {20};
  const ReplayDecision decision = rules_->Decide(WriteOf(20));
  EXPECT_EQ(decision.conflict, "update/update");
  ASSERT_THAT(decision.steps, SizeIs(1));
  EXPECT_EQ(decision.steps[0].data, ReplayStep::Data::kLocalVersion);
  EXPECT_EQ(decision.steps[0].record.create().name(), "f.conflict-n1-3");
  // The copy has everything: further changes of the same file add nothing.
  PutFile(decision.steps[0].record.create().object(), kRoot, "f.conflict-n1-3",
          Version(kMe, kFirst).value());
  EXPECT_THAT(rules_->Decide(WriteOf(20)).steps, IsEmpty());
  EXPECT_THAT(rules_->Decide(ChmodOf(20, 0600)).steps, IsEmpty());
}

TEST_F(ReplayRulesTest, UpdateAgainstRemoveKeepsTheLocalVersion) {
  Knew(20, OBJECT_KIND_FILE, kRoot, "f");
  local_versions_ = {20};
  const ReplayDecision decision = rules_->Decide(WriteOf(20));
  EXPECT_EQ(decision.conflict, "update/remove");
  ASSERT_THAT(decision.steps, SizeIs(1));
  EXPECT_EQ(decision.steps[0].local_version_of, ObjectId(20));
}

TEST_F(ReplayRulesTest, EqualAttributesAreNoConflict) {
  PutFile(20, kRoot, "f", kServer);
  attributes_.set_mode(0640);
  const ReplayDecision equal = rules_->Decide(ChmodOf(20, 0640));
  EXPECT_EQ(equal.conflict, "");
  EXPECT_THAT(equal.steps, IsEmpty());
  EXPECT_EQ(rules_->Decide(ChmodOf(20, 0600)).conflict, "attributes");
}

TEST_F(ReplayRulesTest, ADirectorysAttributesAreTheServers) {
  PutDirectory(20, kRoot, "d", kServer);
  const ReplayDecision decision = rules_->Decide(ChmodOf(20, 0700));
  EXPECT_EQ(decision.conflict, "attributes");
  EXPECT_THAT(decision.steps, IsEmpty());
}

TEST_F(ReplayRulesTest, ATakenNameGivesTheLocalObjectAConflictName) {
  PutFile(30, kRoot, "f", kServer);
  const ReplayDecision decision = rules_->Decide(CreateOf(20, kRoot, "f"));
  EXPECT_EQ(decision.conflict, "name/name");
  ASSERT_THAT(decision.steps, SizeIs(1));
  EXPECT_EQ(decision.steps[0].record.create().name(), "f.conflict-n1-3");
  // Later records that mean the name follow.
  PutFile(20, kRoot, "f.conflict-n1-3", Version(kMe, kFirst).value());
  const ReplayDecision moved = rules_->Decide(RenameOf(20, kRoot, "f", kRoot, "g"));
  ASSERT_THAT(moved.steps, SizeIs(1));
  EXPECT_EQ(moved.steps[0].record.rename().from_name(), "f.conflict-n1-3");
}

TEST_F(ReplayRulesTest, TwoDirectoriesOfOneNameAreOne) {
  PutDirectory(30, kRoot, "d", kServer);
  const ReplayDecision decision = rules_->Decide(CreateOf(20, kRoot, "d", OBJECT_KIND_DIRECTORY));
  EXPECT_EQ(decision.conflict, "");
  EXPECT_THAT(decision.steps, IsEmpty());
  const ReplayDecision inside = rules_->Decide(CreateOf(21, 20, "f"));
  ASSERT_THAT(inside.steps, SizeIs(1));
  EXPECT_EQ(inside.steps[0].record.create().parent(), 30u);
}

TEST_F(ReplayRulesTest, ADirectoryThatIsGoneComesBackWithItsParents) {
  Knew(40, OBJECT_KIND_DIRECTORY, kRoot, "a");
  Knew(41, OBJECT_KIND_DIRECTORY, 40, "b");
  const ReplayDecision decision = rules_->Decide(CreateOf(20, 41, "f"));
  EXPECT_EQ(decision.conflict, "remove/update");
  ASSERT_THAT(decision.steps, SizeIs(3));
  EXPECT_EQ(decision.steps[0].record.create().name(), "a.conflict-n1-3");
  EXPECT_EQ(decision.steps[1].record.create().parent(), decision.steps[0].record.create().object());
  EXPECT_EQ(decision.steps[2].record.create().parent(), decision.steps[1].record.create().object());
}

TEST_F(ReplayRulesTest, WhatTheServerChangedIsNotRemoved) {
  PutFile(20, kRoot, "f", kServer);
  EXPECT_EQ(rules_->Decide(RemoveOf(20, kRoot, "f")).conflict, "remove/update");
  PutFile(21, kRoot, "g", kServer);
  EXPECT_EQ(rules_->Decide(RemoveOf(22, kRoot, "g")).conflict, "remove/update");
}

TEST_F(ReplayRulesTest, RemovedOnBothSidesIsNothing) {
  const ReplayDecision decision = rules_->Decide(RemoveOf(20, kRoot, "f"));
  EXPECT_EQ(decision.conflict, "");
  EXPECT_THAT(decision.steps, IsEmpty());
}

TEST_F(ReplayRulesTest, ADirectoryWithNewEntriesStays) {
  PutDirectory(20, kRoot, "d", kBase);
  PutFile(30, 20, "new", kServer);
  const ReplayDecision decision = rules_->Decide(RemoveOf(20, kRoot, "d", true));
  EXPECT_EQ(decision.conflict, "rmdir");
  EXPECT_THAT(decision.steps, IsEmpty());
}

TEST_F(ReplayRulesTest, RenamedOnBothSidesStaysWhereTheServerHasIt) {
  PutFile(20, kRoot, "theirs", kServer);
  const ReplayDecision decision = rules_->Decide(RenameOf(20, kRoot, "f", kRoot, "mine"));
  EXPECT_EQ(decision.conflict, "rename/rename");
  EXPECT_THAT(decision.steps, IsEmpty());
}

TEST_F(ReplayRulesTest, ACycleIsLeftOut) {
  PutDirectory(20, kRoot, "a", kBase);
  PutDirectory(21, 20, "b", kServer);  // the server moved b into a
  const ReplayDecision decision = rules_->Decide(RenameOf(20, kRoot, "a", 21, "a"));
  EXPECT_EQ(decision.conflict, "rename cycle");
  EXPECT_THAT(decision.steps, IsEmpty());
}

TEST_F(ReplayRulesTest, AChangedRenameTargetIsKept) {
  PutFile(20, kRoot, "tmp", kBase);
  PutFile(21, kRoot, "page", kServer);
  const ReplayDecision decision =
      rules_->Decide(RenameOf(20, kRoot, "tmp", kRoot, "page", /*replaced=*/21));
  EXPECT_EQ(decision.conflict, "overwritten rename target");
  ASSERT_THAT(decision.steps, SizeIs(1));
  EXPECT_EQ(decision.steps[0].record.rename().to_name(), "page.conflict-n1-3");
  EXPECT_EQ(decision.steps[0].record.rename().replaced(), 0u);
}

TEST_F(ReplayRulesTest, AnUnchangedRenameTargetIsReplaced) {
  PutFile(20, kRoot, "tmp", kBase);
  PutFile(21, kRoot, "page", kBase);
  const ReplayDecision decision =
      rules_->Decide(RenameOf(20, kRoot, "tmp", kRoot, "page", /*replaced=*/21));
  EXPECT_EQ(decision.conflict, "");
  ASSERT_THAT(decision.steps, SizeIs(1));
  EXPECT_EQ(decision.steps[0].record.rename().replaced(), 21u);
  EXPECT_TRUE(decision.steps[0].record.rename().replaced_last());
}

TEST_F(ReplayRulesTest, AConflictNameFitsAndIsFree) {
  const std::string longest(255, 'x');
  PutFile(30, kRoot, longest, kServer);
  const ReplayDecision decision = rules_->Decide(CreateOf(20, kRoot, longest));
  ASSERT_THAT(decision.steps, SizeIs(1));
  const std::string name = decision.steps[0].record.create().name();
  EXPECT_EQ(name.size(), 255u);
  EXPECT_THAT(name, HasSubstr(".conflict-n1-3"));
  PutFile(31, kRoot, name, kServer);
  EXPECT_NE(rules_->Decide(CreateOf(21, kRoot, longest)).steps[0].record.create().name(), name);
}

}  // namespace
}  // namespace intermezzo::sidecar
