package aliyun_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

func TestThrottlingIsWaitedOut(t *testing.T) {
	t.Parallel()
	cloud, client := setup(t)
	cloud.Throttle("AttachNetworkInterface", 3)
	eni := mustCreate(t, client, podENI())
	if err := client.AttachENI(t.Context(), eni.ID, "i-1"); err != nil {
		t.Errorf("attach, throttled three times: %v", err)
	}
	if n := cloud.Calls()["AttachNetworkInterface"]; n != 4 {
		t.Errorf("%d calls, want 4", n)
	}
	cloud.Throttle("DeleteNetworkInterface", 100)
	if err := client.DeleteENI(t.Context(), eni.ID); !errors.Is(err, aliyun.ErrThrottled) {
		t.Errorf("delete, always throttled: %v", err)
	}
	if n := cloud.Calls()["DeleteNetworkInterface"]; n != 6 {
		t.Errorf("%d calls, want 6", n)
	}
}

// A change whose answer is lost is repeated only under a client token, and then happens once.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	cloud, client := setup(t)
	lose := func(action string) { cloud.Inject(sim.Fault{Action: action, LoseAnswer: true}) }
	before := len(cloud.ENIs())

	lose("CreateNetworkInterface")
	req := podENI()
	req.ClientToken = "once"
	eni := mustCreate(t, client, req)
	if n := len(cloud.ENIs()); n != before+1 {
		t.Errorf("%d ENIs were created, want 1", n-before)
	}
	lose("AssignPrivateIpAddresses")
	addrs, err := client.AssignIPs(t.Context(), v4(eni.ID, 2, "once"))
	if err != nil || len(addrs) != 2 || len(mustDescribe(t, client, eni.ID).PrivateIPs) != 3 {
		t.Errorf("AssignIPs = %v, %v; ENI has %v", addrs, err, mustDescribe(t, client, eni.ID).PrivateIPs)
	}
	lose("UnassignPrivateIpAddresses")
	if err := client.UnassignIPs(t.Context(), eni.ID, addrs); err != nil {
		t.Errorf("unassign: %v", err)
	}
	lose("CreateNetworkInterface")
	if _, err := client.CreateENI(t.Context(), podENI()); !errors.Is(err, aliyun.ErrUnavailable) {
		t.Errorf("create without a token: %v, want ErrUnavailable", err)
	}
	if n := len(cloud.ENIs()); n != before+2 {
		t.Errorf("%d ENIs, want %d: the create without a token was repeated", n, before+2)
	}
	lose("AttachNetworkInterface")
	if err := client.AttachENI(t.Context(), eni.ID, "i-1"); !errors.Is(err, aliyun.ErrUnavailable) {
		t.Errorf("attach: %v, want ErrUnavailable", err)
	}
	lose("DeleteNetworkInterface")
	orphan := mustCreate(t, client, podENI())
	if err := client.DeleteENI(t.Context(), orphan.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// A refusal after a try whose answer was lost does not say that nothing was done.
func TestRefusalAfterALostAnswer(t *testing.T) {
	t.Parallel()
	const action = "CreateNetworkInterface"
	for _, tc := range []struct {
		code  string
		class error // that shows beside ErrUnavailable; nil: none
	}{
		{"Forbidden.RAM", aliyun.ErrForbidden},
		{"InvalidVSwitchId.IpNotEnough", aliyun.ErrVSwitchFull},
		{"Throttling.User", nil},
	} {
		t.Run(tc.code, func(t *testing.T) {
			t.Parallel()
			cloud, client := setup(t)
			before := len(cloud.ENIs())
			req := podENI()
			req.ClientToken = "once"
			cloud.Inject(sim.Fault{Action: action, LoseAnswer: true})
			refusal := cloud.Inject(sim.Fault{Action: action, Times: -1, Code: tc.code, HTTPStatus: 403})
			_, err := client.CreateENI(t.Context(), req)
			if !errors.Is(err, aliyun.ErrUnavailable) || len(cloud.ENIs()) != before+1 {
				t.Errorf("with an ENI made: %v, want ErrUnavailable", err)
			}
			if tc.class != nil && !errors.Is(err, tc.class) || errors.Is(err, aliyun.ErrThrottled) {
				t.Errorf("error %v, want %v too", err, tc.class)
			}
			if _, err := client.CreateENI(t.Context(), req); errors.Is(err, aliyun.ErrUnavailable) {
				t.Errorf("refused at once: %v", err)
			}
			refusal.Remove()
			if mustCreate(t, client, req); len(cloud.ENIs()) != before+1 {
				t.Error("made twice under one token")
			}
		})
	}
	cloud, client := setup(t)
	cloud.Inject(sim.Fault{Action: "DescribeInstances", LoseAnswer: true})
	cloud.Inject(sim.Fault{Action: "DescribeInstances", Code: "Forbidden.RAM", HTTPStatus: 403})
	if _, err := client.DescribeInstance(t.Context(), "i-1"); !errors.Is(err, aliyun.ErrForbidden) || errors.Is(err, aliyun.ErrUnavailable) {
		t.Errorf("a read: %v, want ErrForbidden alone", err)
	}
}

func TestServerFaultsAreRepeated(t *testing.T) {
	t.Parallel()
	cloud, client := setup(t)
	cloud.Inject(sim.Fault{Action: "DescribeInstances", Times: 2, Code: "ServiceUnavailable", HTTPStatus: 503})
	if _, err := client.DescribeInstance(t.Context(), "i-1"); err != nil {
		t.Error(err)
	}
	cloud.Inject(sim.Fault{Action: "CreateNetworkInterface", Code: "InternalError", HTTPStatus: 500})
	if _, err := client.CreateENI(t.Context(), podENI()); !errors.Is(err, aliyun.ErrUnavailable) {
		t.Errorf("create without a token: %v, want ErrUnavailable", err)
	}
	cloud.Inject(sim.Fault{Action: "AttachNetworkInterface", Code: "Operation.Conflict", HTTPStatus: 403})
	eni := mustCreate(t, client, podENI())
	if err := client.AttachENI(t.Context(), eni.ID, "i-1"); err != nil {
		t.Errorf("attach after a conflict: %v", err)
	}
}

func TestContextEndsACall(t *testing.T) {
	t.Parallel()
	cloud, url := cloudOf(t, func(c *sim.Config) { c.Delays.Create = time.Hour })
	client := clientOf(t, url, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := client.CreateENI(ctx, podENI())
		done <- err
	}()
	for start := time.Now(); cloud.Calls()["CreateNetworkInterface"] == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("the call does not arrive")
		}
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the call outlives its context")
	}
}

// A transportFunc is a way to the cloud.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An answer that came counts, even if the context ends as soon as it has.
func TestAnswerJustBeforeTheEnd(t *testing.T) {
	t.Parallel()
	cloud, err := sim.New(sim.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	var end context.CancelFunc
	client, err := aliyun.NewClient(aliyun.Config{
		RegionID: sim.DefaultRegion, Endpoint: "127.0.0.1:1",
		Credentials: aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret},
		Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
			answer := httptest.NewRecorder()
			cloud.Handler().ServeHTTP(answer, r)
			end()
			return answer.Result(), nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	end = cancel
	if eni, err := client.CreateENI(ctx, podENI()); err != nil || len(cloud.ENIs()) != 1 || eni.ID != cloud.ENIs()[0].ID {
		t.Errorf("CreateENI = %v, %v; the cloud has %d ENIs", eni.ID, err, len(cloud.ENIs()))
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	end = cancel
	cloud.Inject(sim.Fault{Action: "CreateNetworkInterface", Code: "Forbidden.RAM", HTTPStatus: 403})
	if _, err := client.CreateENI(ctx, podENI()); !errors.Is(err, aliyun.ErrForbidden) {
		t.Errorf("refused: %v, want ErrForbidden", err)
	}
}

// One client serves many goroutines; the race detector watches the SDK.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	cloud, client := setup(t)
	cloud.Throttle("", 20)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			req := podENI()
			req.ClientToken = fmt.Sprintf("worker-%d", i%8)
			eni, err := client.CreateENI(t.Context(), req)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := client.AssignIPs(t.Context(), v4(eni.ID, 1, fmt.Sprintf("ip-%d", i))); err != nil {
				t.Error(err)
			}
			if _, err := client.DescribeENIs(t.Context(), aliyun.ENIFilter{IDs: []string{eni.ID}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	enis, owners := cloud.ENIs(), map[netip.Addr]string{}
	if len(enis) != 1+8 {
		t.Errorf("%d ENIs, want 9: client tokens were not kept", len(enis))
	}
	for _, e := range enis {
		for _, a := range e.PrivateIPs {
			if owners[a] != "" {
				t.Errorf("%s is on %s and on %s", a, owners[a], e.ID)
			}
			owners[a] = e.ID
		}
	}
}
