package main

import "testing"

// TestNodeName: row A6. The kubelet registers names in lower case, whatever the host is called.
func TestNodeName(t *testing.T) {
	t.Parallel()
	if got := nodeName(" CN-Hangzhou.192.168.0.7 "); got != "cn-hangzhou.192.168.0.7" {
		t.Errorf("A6 the node's name is %q", got)
	}
}
