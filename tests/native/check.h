// A test harness in one header, so that the native tests need nothing to be fetched or installed.
//
//   TEST(name) { CHECK(1 + 1 == 2); CHECK_CLOSE(got, want, tolerance); }
//   int main(int argc, char** argv) { return meon::test::run(argc, argv); }
//
// A failed check is printed and counted, and the test goes on; REQUIRE ends the test instead. With arguments, run()
// runs only the tests whose name contains one of them, and fails when nothing matches: a test that is not run must
// not look like one that passed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

namespace meon::test {

struct Case {
  const char* name;
  void (*body)();
};

struct State {
  std::vector<Case> cases;
  std::vector<std::string> context;  // innermost last; printed with every failure
  int64_t checks = 0;
  int64_t failures = 0;
  int64_t printed = 0;  // of the running test: a wrong kernel fails a million times, and ten lines say as much
};

inline State& state() {
  static State instance;
  return instance;
}

struct Registrar {
  Registrar(const char* name, void (*body)()) { state().cases.push_back({name, body}); }
};

// Thrown by REQUIRE, after the failure has been counted.
struct Abandoned {};

// Names the parameters in force: INFO("C=" << c << " S=" << s); every failure in the same scope prints it.
class Context {
 public:
  explicit Context(std::string text) { state().context.push_back(std::move(text)); }
  ~Context() { state().context.pop_back(); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

inline void record_failure(const char* file, int line, const std::string& message) {
  constexpr int64_t kPrintedPerTest = 10;
  State& s = state();
  ++s.failures;
  if (++s.printed > kPrintedPerTest) return;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
  for (const std::string& text : s.context) std::fprintf(stderr, "    with %s\n", text.c_str());
  if (s.printed == kPrintedPerTest) std::fprintf(stderr, "    (further failures of this test are only counted)\n");
}

inline bool check(bool ok, const char* expression, const char* file, int line) {
  ++state().checks;
  if (!ok) record_failure(file, line, std::string("CHECK(") + expression + ") failed");
  return ok;
}

// |got - want| <= tolerance, where equal infinities and a pair of NaN agree. Written so that a NaN on one side, or in
// the tolerance, fails.
inline bool close(double got, double want, double tolerance) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want) || std::isinf(got)) return got == want;
  return std::fabs(got - want) <= tolerance;
}

inline bool check_close(double got, double want, double tolerance, const char* expression, const char* file, int line) {
  ++state().checks;
  const bool ok = close(got, want, tolerance);
  if (!ok) {
    char text[256];
    std::snprintf(text, sizeof text, ": got %.17g, want %.17g, off by %.3g, allowed %.3g", got, want,
                  std::fabs(got - want), tolerance);
    record_failure(file, line, expression + std::string(text));
  }
  return ok;
}

inline int run(int argc, char** argv) {
  State& s = state();
  int ran = 0;
  int failed_tests = 0;
  for (const Case& c : s.cases) {
    bool selected = argc <= 1;
    for (int i = 1; i < argc; ++i) selected = selected || std::string(c.name).find(argv[i]) != std::string::npos;
    if (!selected) continue;
    const int64_t failures_before = s.failures;
    const int64_t checks_before = s.checks;
    s.printed = 0;
    try {
      c.body();
    } catch (const Abandoned&) {
    } catch (const std::exception& error) {
      record_failure(c.name, 0, std::string("threw ") + error.what());
    } catch (...) {
      record_failure(c.name, 0, "threw something that is not a std::exception");
    }
    if (s.failures == failures_before && s.checks == checks_before) record_failure(c.name, 0, "made no check");
    const int64_t failures = s.failures - failures_before;
    failed_tests += failures > 0;
    ++ran;
    std::printf("%-6s %s (%lld checks", failures ? "FAILED" : "ok", c.name,
                static_cast<long long>(s.checks - checks_before));
    if (failures) std::printf(", %lld failed", static_cast<long long>(failures));
    std::printf(")\n");
    std::fflush(stdout);
  }
  std::printf("%d tests, %d failed; %lld checks, %lld failed\n", ran, failed_tests, static_cast<long long>(s.checks),
              static_cast<long long>(s.failures));
  if (ran == 0) std::fprintf(stderr, "no test matches\n");
  return ran > 0 && s.failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace meon::test

#define TEST(name)                                                                      \
  static void meon_test_##name();                                                       \
  static const ::meon::test::Registrar meon_registrar_##name(#name, &meon_test_##name); \
  static void meon_test_##name()

#define MEON_TEST_JOIN_(a, b) a##b
#define MEON_TEST_JOIN(a, b) MEON_TEST_JOIN_(a, b)

#define INFO(stream)                                                         \
  const ::meon::test::Context MEON_TEST_JOIN(meon_context_, __LINE__)(([&] { \
    std::ostringstream meon_text;                                            \
    meon_text << stream;                                                     \
    return meon_text.str();                                                  \
  })())

#define CHECK(...) ::meon::test::check(static_cast<bool>(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

#define REQUIRE(...)                                          \
  do {                                                        \
    if (!CHECK(__VA_ARGS__)) throw ::meon::test::Abandoned(); \
  } while (false)

#define CHECK_CLOSE(got, want, tolerance)                                                                        \
  ::meon::test::check_close(static_cast<double>(got), static_cast<double>(want), static_cast<double>(tolerance), \
                            "CHECK_CLOSE(" #got ", " #want ", " #tolerance ")", __FILE__, __LINE__)

// The expression must throw the named type; its what() must contain the text.
#define CHECK_THROWS(type, text, ...)                                                                    \
  do {                                                                                                   \
    bool meon_threw = false;                                                                             \
    try {                                                                                                \
      static_cast<void>(__VA_ARGS__);                                                                    \
    } catch (const type& meon_error) {                                                                   \
      meon_threw = true;                                                                                 \
      if (!::meon::test::check(std::string(meon_error.what()).find(text) != std::string::npos,           \
                               "the message of " #__VA_ARGS__ " contains " #text, __FILE__, __LINE__)) { \
        std::fprintf(stderr, "    it says: %s\n", meon_error.what());                                    \
      }                                                                                                  \
    }                                                                                                    \
    ::meon::test::check(meon_threw, #__VA_ARGS__ " throws " #type, __FILE__, __LINE__);                  \
  } while (false)
