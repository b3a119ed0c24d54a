//go:build node

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// fullFlows is the smallest table that may be configured: a pod has at most 256 of it.
	fullFlows = leastPolicyFlows
	echoPort  = 5433
	// fullPolicy isolates every pod both ways. What it allows is more than there is room for.
	fullPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 5432}, {port: 5433}]}], egress: [{}]}
`
)

// serveEcho has a pod send back what comes on connections, which it keeps.
func (n *policyNode) serveEcho(t *testing.T, pod string) {
	t.Helper()
	var l net.Listener
	must(t, n.pods[pod].ns.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(n.pods[pod].addr, echoPort).String())
		return err
	}))
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go func() {
					_, _ = io.Copy(c, c)
					c.Close()
				}()
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })
}

// open begins connections from a pod to another one's echo without waiting for any. The files are theirs.
func (n *policyNode) open(t *testing.T, from, to string, count int) (files []*os.File) {
	t.Helper()
	must(t, n.pods[from].ns.Do(func() error {
		for range count {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			files = append(files, os.NewFile(uintptr(fd), "connection"))
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: echoPort, Addr: n.pods[to].addr.As4()}); !errors.Is(err, unix.EINPROGRESS) {
				return fmt.Errorf("connect: %w", err)
			}
		}
		return nil
	}))
	return files
}

// TestPolicyFlowsFull: when twice as many connections are begun as can be remembered, those of before go on, new ones of isolated
// pods are refused and told of, and there is room again when others end.
func TestPolicyFlowsFull(t *testing.T) {
	n := startPolicyNode(t, fmt.Sprintf("policy: {flows: %d}\n", fullFlows))
	n.apply(t, "pods.yaml", policyPods+"---\n"+policyDB+"---\n"+policyOld)
	n.apply(t, "policy.yaml", fullPolicy)
	n.startAgent(t)
	pods := []string{"api", "web", "old", "db"}
	for _, pod := range pods {
		must(t, n.add(t.Context(), t, pod))
		n.serveEcho(t, pod)
	}
	var long net.Conn
	must(t, n.pods["api"].ns.Do(func() (err error) {
		long, err = net.DialTimeout("tcp", netip.AddrPortFrom(n.pods["db"].addr, echoPort).String(), policyPatience)
		return err
	}))
	t.Cleanup(func() { long.Close() })
	goesOn := func(when string) {
		t.Helper()
		if _, err := long.Write([]byte{1}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if _, err := io.ReadFull(long, make([]byte, 1)); err != nil {
			t.Errorf("%s: the connection from before is cut: %v", when, err)
		}
	}
	goesOn("at first")
	var files []*os.File
	t.Cleanup(func() {
		for _, f := range files {
			f.Close()
		}
	})
	for i, pod := range pods {
		files = append(files, n.open(t, pod, pods[(i+1)%len(pods)], 2*fullFlows/len(pods))...)
	}
	goesOn("when there is no room")
	if n.dials(t, "api", "db", deniedAfter) {
		t.Error("there is room for another connection")
	}
	n.wantFull(t)

	for _, f := range files {
		f.Close()
	}
	files = nil
	awaitPolicy(t, "room", func() error {
		if !n.dials(t, "api", "web", deniedAfter) {
			return errors.New("there is none")
		}
		return nil
	})
	goesOn("when there is room again")
	n.agent.Kill()
}

// wantFull waits for what tells of it: the verb, the log, which is the event's text, and the table's use.
func (n *policyNode) wantFull(t *testing.T) {
	t.Helper()
	awaitPolicy(t, "an alarm", func() error {
		var v policiesView
		must(t, n.api().Get(t.Context(), policiesPath, &v))
		var use policyMapView
		for _, m := range v.Maps {
			if m.Map == "connections" {
				use = m
			}
		}
		if use.Max != fullFlows || use.Entries == 0 || use.Entries > use.Max {
			return fmt.Errorf("the table is %+v", use)
		}
		for _, p := range v.Pods {
			if p.Pod == "shop/api" && p.Full == 0 {
				return errors.New("shop/api was refused nothing")
			}
		}
		text, err := os.ReadFile(n.log)
		must(t, err)
		if !strings.Contains(string(text), "connections of a pod refused") {
			return errors.New("the log does not say so")
		}
		t.Logf("%d of %d connections are remembered", use.Entries, use.Max)
		return nil
	})
	out, err := execute(t, "get", "policies", "--socket", n.node.MachinePath("/run/nearpath/agent.sock"))
	if must(t, err); !strings.Contains(out, "shop/api was refused connections for want of room") {
		t.Errorf("get policies does not say so:\n%s", out)
	}
}
