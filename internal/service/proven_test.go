package service

// provenBy names the tests of rows that one decision does not show: package directory and test.
var provenBy = map[string][]string{}
