"""What is printed on the pictures: made up, no line like another within a picture."""

ZH = (
    "春天的早晨阳光洒在窗台的花盆上小猫懒洋洋地伸着腰望着远处的山爷爷端着茶杯坐在院子里的藤椅上翻看昨天的报纸"
    "夏天的傍晚孩子们在河边追逐着萤火虫奶奶摇着蒲扇讲着从前的故事星星一颗颗亮起来像撒了一把盐落进深蓝的湖水里"
    "秋天的果园里挂满了红苹果父亲把梯子靠在树旁轻轻摘下最高处的几只放进竹篮邻居送来新磨的面粉和半罐野蜂蜜"
    "冬天的第一场雪下了整整一夜清早推开门台阶已经看不见了弟弟穿着厚厚的棉袄在巷口堆了一个歪着脑袋的雪人"
    "火车穿过平原时天色刚刚变亮车窗外的麦田一直铺到地平线有人在田埂上挥手也有人牵着黄牛慢慢走过小桥"
    "旧书店的老板记得每一位熟客的名字他把找了很久的画册用牛皮纸包好系上麻绳又多送了一张手写的书签"
)
EN = (
    "The morning train left the station a little after seven and most of the passengers were still asleep when the "
    "conductor came through the carriage. Outside the window the fields were white with frost, and a thin line of "
    "smoke rose from every farmhouse along the river. Nobody spoke until we reached the second bridge, where an old "
    "man opened his bag, took out a loaf of bread and offered a slice to each of his neighbours. By noon the fog had "
    "lifted, the mountains stood clear against the sky, and the children counted tunnels until they lost their place. "
    "We arrived in the harbour town before dark, found the inn beside the market square and ordered soup for everyone. "
)
WORDS = EN.split()

GOODS = (
    *("纯牛奶", "苹果", "抽纸", "酱油", "鸡蛋", "面包", "大米", "洗衣液", "矿泉水", "西红柿", "五花肉", "白砂糖"),
    *("牙膏", "香蕉", "酸奶", "方便面", "土豆", "饼干", "茶叶", "电池", "毛巾", "橙汁", "豆腐", "菠菜"),
)
DISHES = (
    *("宫保鸡丁", "麻婆豆腐", "清炒时蔬", "红烧排骨", "酸辣土豆丝", "番茄蛋汤", "扬州炒饭", "水煮牛肉"),
    *("糖醋里脊", "蒜蓉西兰花", "干煸豆角", "葱油拌面"),
)
NAMES = ("张建国", "李文静", "王晓明", "赵海燕", "陈志强", "刘思雨", "周伟", "吴丽萍", "郑凯", "孙佳怡")
CITIES = ("北京", "上海", "杭州", "成都", "西安", "广州", "武汉", "昆明", "哈尔滨", "厦门")
SIGNS = (
    *("人民路", "中山公园", "出口", "禁止停车", "小心地滑", "售票处", "停车场入口", "营业中", "欢迎光临", "请勿吸烟"),
    *("图书馆", "地铁二号线", "卫生间", "安全出口", "静夜思书店", "西湖风景区", "前方施工", "减速慢行"),
)
SHOPS = ("老王面馆", "福源超市", "红星理发店", "大众药房", "春风书店", "建设银行", "海鲜大排档", "幸福照相馆")
ENGLISH_SIGNS = (
    "EXIT",
    "NO PARKING",
    "PUSH",
    "TICKETS",
    "Platform 9",
    "CAUTION",
    "Gate 24",
    "Welcome",
    "OPEN 24 HOURS",
)
POEM = ("春风又绿江南岸", "明月何时照我还", "京口瓜洲一水间", "钟山只隔数重山")
LONG_POEM = (
    "床前明月光",
    "疑是地上霜",
    "举头望明月",
    "低头思故乡",
    "白日依山尽",
    "黄河入海流",
    "欲穷千里目",
    "更上一层楼",
)
CHAT = (
    *(
        "今晚一起吃饭吗？",
        "好的，几点？",
        "七点在老地方见",
        "我可能晚到十分钟",
        "没关系，路上小心",
        "要不要叫上小李",
        "他今天加班",
    ),
    *("那就我们两个", "到了给我打电话", "收到"),
)


def chinese(start: int, count: int) -> str:
    """So many characters from somewhere in the text."""
    return "".join(ZH[(start + index) % len(ZH)] for index in range(count))


def chinese_lines(start: int, lines: int, length: int) -> list[str]:
    """A justified paragraph, its last line shorter."""
    cut = [chinese(start + number * length, length) for number in range(lines)]
    cut[-1] = cut[-1][: max(2, length * 2 // 3)] + "。"
    return cut


def english_lines(start: int, lines: int, length: int) -> list[str]:
    """A ragged paragraph of lines up to so many characters."""
    found: list[str] = []
    line = ""
    for offset in range(10_000):
        word = WORDS[(start + offset) % len(WORDS)]
        if line and len(line) + 1 + len(word) > length:
            found.append(line)
            line = ""
            if len(found) == lines:
                return found
        line = f"{line} {word}".strip()
    raise ValueError("the lines are too short")
