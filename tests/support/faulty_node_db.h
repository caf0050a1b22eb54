// A node's database whose commits can be made to fail, as a full disk or a crash makes them.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "services/sidecar/node_db/node_db.h"

namespace intermezzo::tests {

class FaultyNodeDb : public sidecar::NodeDb {
 public:
  // While `*failure` is an error, Commit returns it and writes nothing. Not owned.
  // `before_commit` is called before each where it is set. Neither is owned.
  FaultyNodeDb(std::unique_ptr<NodeDb> inner, const absl::Status* failure,
               const std::function<void()>* before_commit)
      : inner_(std::move(inner)), failure_(failure), before_commit_(before_commit) {}

  std::optional<storage::v1::ObjectRow> Object(ObjectId id) const override {
    return inner_->Object(id);
  }
  std::optional<storage::v1::EntryRow> Entry(ObjectId parent,
                                             const std::string& name) const override {
    return inner_->Entry(parent, name);
  }
  ObjectId ByInode(uint64_t inode) const override { return inner_->ByInode(inode); }
  bool HasEntries(ObjectId parent) const override { return inner_->HasEntries(parent); }
  storage::v1::ReplicaRow State() const override { return inner_->State(); }
  std::optional<std::string> Note(const std::string& name) const override {
    return inner_->Note(name);
  }
  std::vector<std::string> NoteNames(const std::string& prefix) const override {
    return inner_->NoteNames(prefix);
  }
  std::vector<std::pair<uint64_t, record::v1::Entry>> ReadLocal(uint64_t after, size_t max_records,
                                                                size_t max_bytes) const override {
    return inner_->ReadLocal(after, max_records, max_bytes);
  }
  std::unique_ptr<Batch> NewBatch() const override { return inner_->NewBatch(); }
  absl::Status Commit(std::unique_ptr<Batch> batch, bool sync) override {
    if (*before_commit_) (*before_commit_)();
    if (!failure_->ok()) return *failure_;
    return inner_->Commit(std::move(batch), sync);
  }
  absl::Status Sync() override { return inner_->Sync(); }
  std::unique_ptr<View> NewView() const override { return inner_->NewView(); }

 private:
  const std::unique_ptr<NodeDb> inner_;
  const absl::Status* const failure_;
  const std::function<void()>* const before_commit_;
};

}  // namespace intermezzo::tests
