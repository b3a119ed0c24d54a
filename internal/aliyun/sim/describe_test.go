package sim

import (
	"maps"
	"testing"
)

func TestPages(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	create := map[string]string{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup}
	for range 25 {
		c.ecs(t, "CreateNetworkInterface", create)
	}
	ids := func(answer map[string]any) (ids []string) {
		for _, e := range answer["NetworkInterfaceSets"].(map[string]any)["NetworkInterfaceSet"].([]any) {
			ids = append(ids, e.(map[string]any)["NetworkInterfaceId"].(string))
		}
		return ids
	}
	t.Run("numbered", func(t *testing.T) {
		_, answer := c.ecs(t, "DescribeNetworkInterfaces", map[string]string{"PageNumber": "3"})
		if got := ids(answer); len(got) != 5 || answer["TotalCount"] != 25.0 || answer["PageSize"] != 10.0 {
			t.Errorf("page 3: %v of %v", got, answer["TotalCount"])
		}
		_, answer = c.ecs(t, "DescribeNetworkInterfaces", map[string]string{"PageNumber": "4"})
		if got := ids(answer); len(got) != 0 {
			t.Errorf("page 4: %v", got)
		}
	})
	t.Run("by token, while the list changes", func(t *testing.T) {
		var all []string
		token := ""
		for range 10 {
			_, answer := c.ecs(t, "DescribeNetworkInterfaces", map[string]string{"MaxResults": "10", "NextToken": token})
			page := ids(answer)
			all = append(all, page...)
			c.ecs(t, "DeleteNetworkInterface", map[string]string{"NetworkInterfaceId": page[0]})
			if token = answer["NextToken"].(string); token == "" {
				break
			}
		}
		seen := map[string]bool{}
		for _, id := range all {
			seen[id] = true
		}
		if len(all) != 25 || len(seen) != 25 {
			t.Errorf("%d ENIs, %d distinct, want 25", len(all), len(seen))
		}
	})
}

func TestFilters(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	create := map[string]string{
		"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup, "Tag.1.Key": "owner", "Tag.1.Value": "a",
		"PrimaryIpAddress": "10.0.64.9", "PrivateIpAddress.1": "10.0.64.10",
	}
	if status, answer := c.ecs(t, "CreateNetworkInterface", create); status != 200 {
		t.Fatalf("create: %d, %v", status, answer)
	}
	for name, tc := range map[string]struct {
		filter map[string]string
		want   float64
	}{
		"none":                {nil, 1},
		"tag":                 {map[string]string{"Tag.1.Key": "owner", "Tag.1.Value": "a"}, 1},
		"tag key":             {map[string]string{"Tag.1.Key": "owner"}, 1},
		"tag of another":      {map[string]string{"Tag.1.Key": "owner", "Tag.1.Value": "b"}, 0},
		"address":             {map[string]string{"PrivateIpAddress.1": "10.0.64.10"}, 1},
		"other address":       {map[string]string{"PrivateIpAddress.1": "10.0.64.11"}, 0},
		"primary address":     {map[string]string{"PrimaryIpAddress": "10.0.64.9"}, 1},
		"not primary address": {map[string]string{"PrimaryIpAddress": "10.0.64.10"}, 0},
		"state":               {map[string]string{"Status": "Available"}, 1},
		"other state":         {map[string]string{"Status": "InUse"}, 0},
		"security group":      {map[string]string{"SecurityGroupId": "sg-none"}, 0},
		"instance":            {map[string]string{"InstanceId": "i-1"}, 0},
	} {
		if _, answer := c.ecs(t, "DescribeNetworkInterfaces", tc.filter); answer["TotalCount"] != tc.want {
			t.Errorf("%s: %v ENIs, want %v", name, answer["TotalCount"], tc.want)
		}
	}
	for name, tc := range map[string]struct{ field, value, code string }{
		"address in use":     {"PrimaryIpAddress", "10.0.64.9", codeIPAssigned},
		"reserved address":   {"PrimaryIpAddress", "10.0.64.0", codeIPInvalid},
		"gateway":            {"PrimaryIpAddress", "10.0.79.253", codeIPInvalid},
		"address elsewhere":  {"PrimaryIpAddress", "10.0.0.9", codeIPInvalid},
		"no address":         {"PrimaryIpAddress", "x", codeIPAddress},
		"address twice":      {"PrivateIpAddress.2", "10.0.64.10", codeIPRepeated},
		"names and a number": {"SecondaryPrivateIpAddressCount", "1", codeInvalidParameter},
		"groups in two ways": {"SecurityGroupIds.1", DefaultSecurityGroup, codeInvalidParameter},
		"trunk":              {"InstanceType", "Trunk", codeUnsupportedParameter},
	} {
		bad := maps.Clone(create)
		delete(bad, "PrimaryIpAddress")
		bad[tc.field] = tc.value
		before := c.cloud.subnets[DefaultPodVSwitch].free()
		if _, answer := c.ecs(t, "CreateNetworkInterface", bad); answer["Code"] != tc.code {
			t.Errorf("%s: %v, want %s", name, answer, tc.code)
		}
		if after := c.cloud.subnets[DefaultPodVSwitch].free(); after != before {
			t.Errorf("%s: %d addresses are gone", name, before-after)
		}
	}
}
