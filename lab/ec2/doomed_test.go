package ec2_test

func doomed(args []string) int { return 0 }
