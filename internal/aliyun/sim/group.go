package sim

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxGroups bounds the security groups of an ENI.
const maxGroups = 10

// Types of security groups, with the spelling of the API.
const (
	GroupNormal     = "normal"
	GroupEnterprise = "enterprise"
)

// A SecurityGroup exists and has members; it has no rules. VPCID may be left empty for the VPC of the Config, and Type
// for GroupNormal.
type SecurityGroup struct {
	aliyun.SecurityGroup
	// MaxMembers bounds the private addresses of the group's ENIs, a delegated prefix counted as one; zero: no limit.
	MaxMembers int
	Tags       map[string]string
}

// readGroups reads the groups of a new ENI, by the name of one or by a list.
func readGroups(in input) ([]string, error) {
	groups := in.list("SecurityGroupIds")
	if single := in.text("SecurityGroupId"); single != "" {
		if len(groups) > 0 {
			return nil, invalid("SecurityGroupId", single)
		}
		groups = []string{single}
	}
	if len(groups) == 0 {
		return nil, missing("SecurityGroupId")
	}
	return groups, nil
}

// checkGroups checks that an ENI of the VPC may be in the groups. The caller holds c.mu.
func (c *Cloud) checkGroups(ids []string, vpcID string) error {
	if len(ids) > maxGroups {
		return invalid("SecurityGroupIds.N", fmt.Sprint(len(ids), " values"))
	}
	kinds := map[string]bool{}
	for _, id := range ids {
		g := c.groups[id]
		switch {
		case g == nil:
			return refuse(codeGroupNotFound, "The specified security group %q does not exist.", id)
		case g.VPCID != vpcID:
			return refuse(codeGroupNotVPC, "The specified security group %q is in the VPC %s, not in %s.", id, g.VPCID, vpcID)
		case g.ServiceManaged:
			return refuse(codeServiceManaged, "The security group %q is managed by a cloud product.", id)
		}
		kinds[g.Type] = true
	}
	if len(kinds) > 1 {
		return refuse(codeMixedGroups, "The specified ENI can't join different types of security group.")
	}
	return nil
}

// room checks that the groups take n more addresses. The caller holds c.mu.
func (c *Cloud) room(ids []string, n int) error {
	for _, id := range ids {
		if g := c.groups[id]; g.MaxMembers > 0 && c.members(id)+n > g.MaxMembers {
			return refuse(codeGroupFull, "The security group %s has %d members and the limit is %d, so %d more do not fit.", id, c.members(id), g.MaxMembers, n)
		}
	}
	return nil
}

// members counts the addresses in a group. The caller holds c.mu.
func (c *Cloud) members(group string) int {
	n := 0
	for _, e := range c.enis {
		if slices.Contains(e.SecurityGroupIDs, group) {
			n += e.slots(aliyun.IPv4)
		}
	}
	return n
}

var describeGroupsParams = []string{
	"VpcId", "SecurityGroupId", "SecurityGroupIds", "SecurityGroupName", "SecurityGroupType", "ServiceManaged", "NetworkType",
	"Tag.N.Key", "Tag.N.Value", "MaxResults", "NextToken", "PageNumber", "PageSize",
}

func (c *Cloud) describeSecurityGroups(in input) (object, error) {
	ids, err := in.jsonList("SecurityGroupIds", codeInvalidParameter)
	if err != nil {
		return nil, err
	}
	tags, err := in.tags()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*SecurityGroup
	var seqs []int
	for i := range c.cfg.SecurityGroups { // in their order
		g := c.groups[c.cfg.SecurityGroups[i].ID]
		if (ids == nil || slices.Contains(ids, g.ID)) && matches(in, "VpcId", g.VPCID) && matches(in, "SecurityGroupId", g.ID) &&
			matches(in, "SecurityGroupName", g.ID) && matches(in, "SecurityGroupType", g.Type) &&
			matches(in, "ServiceManaged", fmt.Sprint(g.ServiceManaged)) && matches(in, "NetworkType", "vpc") && matchTags(tags, g.Tags) {
			found, seqs = append(found, g), append(seqs, i+1)
		}
	}
	pg, err := tokenPage(in, seqs, 100)
	if err != nil {
		return nil, err
	}
	items := []object{}
	for _, g := range found[pg.start:pg.end] {
		items = append(items, object{
			"SecurityGroupId": g.ID, "SecurityGroupName": g.ID, "SecurityGroupType": g.Type, "VpcId": g.VPCID,
			"ServiceManaged": g.ServiceManaged, "ResourceGroupId": "", "Tags": object{"Tag": describeTags(g.Tags, "TagKey", "TagValue")},
		})
	}
	return pg.describe(object{"RegionId": c.cfg.RegionID, "SecurityGroups": object{"SecurityGroup": items}}), nil
}

// jsonList reads a parameter that is the text of a JSON array; nil if it is absent.
func (in input) jsonList(name, code string) ([]string, error) {
	text := in.text(name)
	if text == "" {
		return nil, nil
	}
	ids := []string{}
	if err := json.Unmarshal([]byte(text), &ids); err != nil || len(ids) > 100 {
		return nil, refuse(code, "The specified parameter %q has the value %q, which is not a JSON array of at most 100 IDs.", name, text)
	}
	if ids == nil { // null
		ids = []string{}
	}
	return ids, nil
}
