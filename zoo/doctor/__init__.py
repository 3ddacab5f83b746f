"""What `zoo doctor` looks at: facts about this machine, and rules that say what they mean for a build."""
