// main() of every test program, whose name its reports carry.
#include <boost/test/unit_test.hpp>
#include <filesystem>

namespace test = boost::unit_test;

int main(int argc, char* argv[]) {
  const auto name_suite = [] {
    auto& suite = test::framework::master_test_suite();
    suite.p_name.value = std::filesystem::path(suite.argv[0]).filename();
    return true;
  };
  return test::unit_test_main(name_suite, argc, argv);
}
