// A file system for RocksDB that knows what was synced and can fail: power loss and a full disk
// without a machine that loses power.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

namespace intermezzo::tests {

class FaultyFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  FaultyFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FaultyFileSystem"; }

  // While set, appends fail as on a full disk, syncs as on a broken one.
  std::atomic<bool> no_space{false};
  std::atomic<bool> broken_sync{false};

  // What a power cut now would leave of `from`: of every file only what was synced. Nothing is
  // written meanwhile.
  void CopySynced(const std::string& from, const std::string& to) {
    std::unique_lock lock(mu_);
    std::filesystem::create_directories(to);
    for (const auto& item : std::filesystem::directory_iterator(from)) {
      const std::string name = item.path().filename();
      if (name == "LOCK" || !item.is_regular_file()) continue;
      const std::string copy = to + "/" + name;
      std::filesystem::copy_file(item.path(), copy);
      const auto synced = synced_.find(item.path());
      if (synced != synced_.end() && synced->second < std::filesystem::file_size(copy)) {
        std::filesystem::resize_file(copy, synced->second);
      }
    }
  }

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* debug) override {
    std::shared_lock lock(mu_);
    if (no_space) return NoSpace();
    rocksdb::IOStatus status = target()->NewWritableFile(name, options, result, debug);
    if (!status.ok()) return status;
    SetSynced(name, 0);
    *result = std::make_unique<File>(*this, name, std::move(*result));
    return status;
  }
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override {
    std::shared_lock lock(mu_);
    rocksdb::IOStatus status = target()->RenameFile(from, to, options, debug);
    if (!status.ok()) return status;
    std::lock_guard sizes(sizes_mu_);
    if (auto it = synced_.find(from); it != synced_.end()) {
      synced_[to] = it->second;
      synced_.erase(it);
    }
    return status;
  }
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override {
    std::shared_lock lock(mu_);
    rocksdb::IOStatus status = target()->DeleteFile(name, options, debug);
    std::lock_guard sizes(sizes_mu_);
    if (status.ok()) synced_.erase(name);
    return status;
  }

 private:
  class File final : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(FaultyFileSystem& owner, std::string name, std::unique_ptr<rocksdb::FSWritableFile> file)
        : FSWritableFileOwnerWrapper(std::move(file)), owner_(owner), name_(std::move(name)) {}

    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
      std::shared_lock lock(owner_.mu_);
      if (owner_.no_space) return NoSpace();
      rocksdb::IOStatus status = FSWritableFileOwnerWrapper::Append(data, options, debug);
      if (status.ok()) written_ += data.size();
      return status;
    }
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             const rocksdb::DataVerificationInfo& info,
                             rocksdb::IODebugContext* debug) override {
      std::shared_lock lock(owner_.mu_);
      if (owner_.no_space) return NoSpace();
      rocksdb::IOStatus status = FSWritableFileOwnerWrapper::Append(data, options, info, debug);
      if (status.ok()) written_ += data.size();
      return status;
    }
    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) override {
      return Synced([&] { return FSWritableFileOwnerWrapper::Sync(options, debug); });
    }
    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                            rocksdb::IODebugContext* debug) override {
      return Synced([&] { return FSWritableFileOwnerWrapper::Fsync(options, debug); });
    }

   private:
    template <typename Sync>
    rocksdb::IOStatus Synced(Sync sync) {
      std::shared_lock lock(owner_.mu_);
      if (owner_.broken_sync) return rocksdb::IOStatus::IOError("injected: sync failed");
      const uint64_t size = written_;
      rocksdb::IOStatus status = sync();
      if (status.ok()) owner_.SetSynced(name_, size);
      return status;
    }

    FaultyFileSystem& owner_;
    const std::string name_;
    std::atomic<uint64_t> written_{0};
  };

  static rocksdb::IOStatus NoSpace() { return rocksdb::IOStatus::NoSpace("injected: disk full"); }
  void SetSynced(const std::string& name, uint64_t size) {
    std::lock_guard sizes(sizes_mu_);
    synced_[name] = size;
  }

  std::shared_mutex mu_;  // shared by every change, whole for a copy
  std::mutex sizes_mu_;
  std::map<std::string, uint64_t> synced_;  // by path
};

}  // namespace intermezzo::tests
