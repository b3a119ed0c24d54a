package sim

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// The same calls from many goroutines, for the race detector and for deadlocks between op locks and the mutex.
func TestConcurrentCalls(t *testing.T) {
	t.Parallel()
	fabric := newRecorder()
	c := newCloud(t, func(c *Config) {
		c.Fabric = fabric
		c.Delays = Delays{Attach: time.Millisecond, Detach: time.Millisecond, Delete: time.Millisecond}
	})
	var ids []string
	for range 4 {
		answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, answer["NetworkInterfaceId"].(string))
	}
	var wg sync.WaitGroup
	var calls sync.RWMutex // an address that a call has taken is on no ENI before the call ends
	for worker := range 8 {
		wg.Go(func() {
			instance := fmt.Sprint("i-", worker%2)
			for round := range 50 {
				calls.RLock()
				in := input{"NetworkInterfaceId": ids[(worker+round)%len(ids)], "InstanceId": instance, "SecondaryPrivateIpAddressCount": "1"}
				_, _, _ = c.RunInstance(t.Context(), InstanceSpec{ID: instance, Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"})
				_, _ = c.attachENI(in)
				_, _ = c.assignIPs(in)
				_, _ = c.describeENIs(in)
				_, _ = c.detachENI(in)
				if round%10 == 9 {
					_ = c.TerminateInstance(t.Context(), instance)
				}
				calls.RUnlock()
				calls.Lock()
				checkInvariants(t, c, nil)
				calls.Unlock()
			}
		})
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.pending.Wait()
	checkInvariants(t, c, nil)
}

func TestStatesTakeTheirTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fabric := newRecorder()
		c := newCloud(t, func(c *Config) {
			c.Fabric = fabric
			c.Delays = Delays{Attach: 5 * time.Second, Detach: 4 * time.Second, Delete: 2 * time.Second}
		})
		if _, _, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"}); err != nil {
			t.Fatal(err)
		}
		answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
		if err != nil {
			t.Fatal(err)
		}
		id := answer["NetworkInterfaceId"].(string)
		in := input{"NetworkInterfaceId": id, "InstanceId": "i-1", "SecondaryPrivateIpAddressCount": "1"}
		steps := []struct {
			call                     func(*Cloud, input) (object, error)
			wait                     time.Duration
			during, after            string
			pluggedBefore, pluggedAt bool
		}{
			{(*Cloud).attachENI, 5 * time.Second, aliyun.StatusAttaching, aliyun.StatusInUse, false, true},
			{(*Cloud).detachENI, 4 * time.Second, aliyun.StatusDetaching, aliyun.StatusAvailable, true, false},
			{(*Cloud).deleteENI, 2 * time.Second, aliyun.StatusDeleting, "", false, false},
		}
		for _, s := range steps {
			if _, err := s.call(c, in); err != nil {
				t.Fatal(err)
			}
			time.Sleep(s.wait - time.Millisecond)
			synctest.Wait()
			if got, plugged := observe(c, fabric, id); got != s.during || plugged != s.pluggedBefore {
				t.Errorf("before the end: %s, plugged %v; want %s, %v", got, plugged, s.during, s.pluggedBefore)
			}
			for name, other := range map[string]func(*Cloud, input) (object, error){
				"attach": (*Cloud).attachENI, "detach": (*Cloud).detachENI, "delete": (*Cloud).deleteENI, "assign": (*Cloud).assignIPs,
			} {
				_, err := other(c, in)
				if ref, ok := errors.AsType[*refusal](err); !ok || ref.code != codeEniState {
					t.Errorf("%s while %s: %v", name, s.during, err)
				}
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if got, plugged := observe(c, fabric, id); got != s.after || plugged != s.pluggedAt {
				t.Errorf("at the end: %s, plugged %v; want %s, %v", got, plugged, s.after, s.pluggedAt)
			}
		}
		checkInvariants(t, c, fabric)
	})
}

func observe(c *Cloud, fabric *recorder, id string) (status string, plugged bool) {
	fabric.mu.Lock()
	_, plugged = fabric.ports[id]
	fabric.mu.Unlock()
	for _, e := range c.ENIs() {
		if e.ID == id {
			status = e.Status
		}
	}
	return status, plugged
}

func TestTerminationDuringAttachment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fabric := newRecorder()
		c := newCloud(t, func(c *Config) { c.Fabric, c.Delays.Attach = fabric, time.Second })
		if _, _, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"}); err != nil {
			t.Fatal(err)
		}
		answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup, "DeleteOnRelease": "false"})
		if err != nil {
			t.Fatal(err)
		}
		id := answer["NetworkInterfaceId"].(string)
		if _, err := c.attachENI(input{"NetworkInterfaceId": id, "InstanceId": "i-1"}); err != nil {
			t.Fatal(err)
		}
		if err := c.TerminateInstance(t.Context(), "i-1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if status, plugged := observe(c, fabric, id); status != aliyun.StatusAvailable || plugged {
			t.Errorf("ENI is %s, plugged %v; want Available", status, plugged)
		}
		checkInvariants(t, c, fabric)
	})
}

// An ENI that moves to another instance while its old one is being terminated stays there.
func TestENIMovesDuringTermination(t *testing.T) {
	t.Parallel()
	fabric := newRecorder()
	c := newCloud(t, func(c *Config) { c.Fabric = fabric })
	var primary string
	for _, id := range []string{"i-1", "i-2"} {
		_, eni, err := c.RunInstance(t.Context(), InstanceSpec{ID: id, Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"})
		if err != nil {
			t.Fatal(err)
		}
		if id == "i-1" {
			primary = eni.ID
		}
	}
	answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
	if err != nil {
		t.Fatal(err)
	}
	id := answer["NetworkInterfaceId"].(string)
	from, to := input{"NetworkInterfaceId": id, "InstanceId": "i-1"}, input{"NetworkInterfaceId": id, "InstanceId": "i-2"}
	if _, err := c.attachENI(from); err != nil {
		t.Fatal(err)
	}
	fabric.beforeUnplug = func(unplugged string) {
		if unplugged != primary { // which goes first
			return
		}
		if _, err := c.detachENI(from); err != nil {
			t.Error(err)
		}
		if _, err := c.attachENI(to); err != nil {
			t.Error(err)
		}
	}
	if err := c.TerminateInstance(t.Context(), "i-1"); err != nil {
		t.Fatal(err)
	}
	if status, plugged := observe(c, fabric, id); status != aliyun.StatusInUse || !plugged {
		t.Errorf("the ENI is %q, plugged %v; want it in use on i-2", status, plugged)
	}
	checkInvariants(t, c, fabric)
}

// What the Fabric refuses does not happen: the attachment falls back, the addresses are given back.
func TestFabricFailure(t *testing.T) {
	t.Parallel()
	fabric := newRecorder()
	c := newCloud(t, func(c *Config) { c.Fabric = fabric })
	spec := InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"}
	fabric.setFail(true)
	if _, _, err := c.RunInstance(t.Context(), spec); err == nil {
		t.Error("an instance runs without a link")
	}
	checkInvariants(t, c, fabric)
	fabric.setFail(false)
	if _, _, err := c.RunInstance(t.Context(), spec); err != nil {
		t.Fatalf("the failed run left something: %v", err)
	}
	answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
	if err != nil {
		t.Fatal(err)
	}
	in := input{"NetworkInterfaceId": answer["NetworkInterfaceId"].(string), "InstanceId": "i-1", "SecondaryPrivateIpAddressCount": "2"}
	fabric.setFail(true)
	if _, err := c.attachENI(in); err != nil {
		t.Errorf("attach is asynchronous, but answers %v", err)
	}
	if status, _ := observe(c, fabric, in["NetworkInterfaceId"]); status != aliyun.StatusAvailable {
		t.Errorf("after a failed attachment: %s", status)
	}
	fabric.setFail(false)
	if _, err := c.attachENI(in); err != nil {
		t.Fatal(err)
	}
	fabric.setFail(true)
	if ref, ok := errors.AsType[*refusal](mustFail(t, (*Cloud).assignIPs, c, in)); !ok || ref.status != 500 {
		t.Errorf("assign answers %+v, want an internal error", ref)
	}
	checkInvariants(t, c, nil)
	fabric.setFail(false)
	checkInvariants(t, c, fabric)
}

func mustFail(t *testing.T, serve func(*Cloud, input) (object, error), c *Cloud, in input) error {
	t.Helper()
	_, err := serve(c, in)
	if err == nil {
		t.Fatal("the call succeeded")
	}
	return err
}
