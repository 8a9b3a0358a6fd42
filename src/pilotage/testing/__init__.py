"""Builders, fakes and contract suites, public: for authors of plugins and for the tests of Pilotage itself."""
