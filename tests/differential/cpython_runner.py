"""Runs one module of CPython's own tests; sent to a session as code, and run by an interpreter outside."""


def run(name):
    import io
    import sys
    import unittest

    from test import support

    support.use_resources = []
    support.verbose = False
    found = {}

    def last_line(text):
        lines = [line for line in text.strip().splitlines() if line.strip()]
        named = [line for line in lines if line[:1].isalpha() and ("Error" in line or "Exception" in line)]
        return (named or lines or [""])[-1][:300]

    class Outcomes(unittest.TestResult):
        def _note(self, test, what):
            # A test that fails in a subtest has failed, whatever else is said of it.
            if not found.get(test.id(), "").startswith("failed"):
                found[test.id()] = what

        def addSuccess(self, test):
            self._note(test, "ok")

        def addSkip(self, test, reason):
            self._note(test, "skipped")

        def addExpectedFailure(self, test, err):
            self._note(test, "ok")

        def addError(self, test, err):
            self._note(test, "failed: " + last_line(self._exc_info_to_string(err, test)))

        addFailure = addError

        def addUnexpectedSuccess(self, test):
            self._note(test, "failed: unexpected success")

        def addSubTest(self, test, subtest, err):
            if err is not None:
                self.addError(test, err)

        def _setupStdout(self):
            pass

    noise, sys.stderr = sys.stderr, io.StringIO()
    shown, sys.stdout = sys.stdout, io.StringIO()
    try:
        unittest.defaultTestLoader.loadTestsFromName("test." + name).run(Outcomes())
    finally:
        sys.stderr, sys.stdout = noise, shown
    return found
