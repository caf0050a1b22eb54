// Prints rows as aligned columns.
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace intermezzo::mezzo {

// Rows under headers, columns as wide as their widest cell, two blanks between them.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string header;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns);
  // Missing cells are empty; more cells than columns are an error of the caller and dropped.
  void AddRow(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  // No blanks at the ends of lines.
  void Print(std::ostream& out) const;

 private:
  const std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace intermezzo::mezzo
